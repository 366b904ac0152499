// The sampler of a sequence, and the gate that opens when masks are ready.
#include "bind/arrays.hpp"

namespace befit::bind {

void sampler(nb::module_& m) {
  nb::class_<Sampler>(m, "Sampler")
      .def("__init__",
           [](Sampler* self, float temperature, int top_k, float top_p, float min_p, float typical_p, float repetition_penalty,
              float frequency_penalty, float presence_penalty, uint64_t seed, std::vector<std::pair<int, float>> logit_bias,
              std::vector<std::vector<int>> bad_words, int min_tokens, std::vector<int> stop_ids, std::vector<int> allowed_ids, bool watermark,
              const std::vector<int>& prompt) {
             for (const std::vector<int>& word : bad_words) require(!word.empty(), "a bad word has no tokens");
             for (int id : allowed_ids) require(id >= 0, "an allowed id is negative");
             new (self) Sampler({temperature, top_p, min_p, typical_p, repetition_penalty, frequency_penalty, presence_penalty, top_k,
                                 min_tokens, seed, std::move(logit_bias), std::move(bad_words), std::move(stop_ids), std::move(allowed_ids), watermark},
                                prompt);
           },
           "temperature"_a, "top_k"_a, "top_p"_a, "min_p"_a, "typical_p"_a, "repetition_penalty"_a, "frequency_penalty"_a,
           "presence_penalty"_a, "seed"_a, "logit_bias"_a, "bad_words"_a, "min_tokens"_a, "stop_ids"_a,
           "allowed_ids"_a, "watermark"_a, "prompt"_a)
      .def("sample",
           [](Sampler& self, const std::string& isa, const Floats& x, int logprobs, const std::optional<Words>& mask) {
             require(!mask || mask->size() == (x.size() + 31) / 32, "the mask does not fit the logits");
             std::vector<float> copy(x.data(), x.data() + x.size());
             const Sampled s = self.sample(*find_kernels(isa), copy.data(), (int)copy.size(), logprobs, mask ? mask->data() : nullptr);
             return nb::make_tuple(s.token, s.finite, s.logprob, s.rank, s.top);
           },
           "isa"_a, "logits"_a, "logprobs"_a, "mask"_a = nb::none());

  nb::class_<Gate>(m, "Gate").def(nb::init<>()).def("open", &Gate::open);
}

}  // namespace befit::bind
