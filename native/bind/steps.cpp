// A step of a model: arrays in, checked so that no index can leave its memory, tokens and their scores out.
#include "bind/arrays.hpp"

namespace befit::bind {

namespace {

struct BatchArrays {
  Ints tokens, positions, query_start, context_len;
  Table block_tables;
  Ints rows, targets, logprobs, drafts, hidden;
};

// Views of a step's arrays, checked so that no index can leave the model's memory.
Batch make_batch(const Model& m, const BatchArrays& a, std::vector<Sampler*> samplers) {
  Batch b{(int)a.tokens.size(), (int)a.context_len.size(), (int)a.block_tables.shape(1), (int)a.rows.size(),
          a.tokens.data(), a.positions.data(), a.query_start.data(), a.context_len.data(), a.block_tables.data(),
          a.rows.data(), a.targets.data(), a.logprobs.data(), a.drafts.size() ? a.drafts.data() : nullptr, (int)a.hidden.size(), a.hidden.data(), std::move(samplers)};
  require(b.tokens_count > 0 && b.tokens_count <= m.max_tokens,
          "a step of " + std::to_string(b.tokens_count) + " tokens; this model takes 1 to " + std::to_string(m.max_tokens));
  require(b.rows_count <= m.max_rows, "a step with " + std::to_string(b.rows_count) + " rows; this model takes " + std::to_string(m.max_rows));
  require((int)a.positions.size() == b.tokens_count && (int)a.query_start.size() == b.seqs + 1 &&
              (int)a.block_tables.shape(0) >= b.seqs && (int)a.targets.size() == b.rows_count &&
              (int)a.logprobs.size() == b.rows_count && (int)b.samplers.size() == b.rows_count &&
              (!b.drafts || (int)a.drafts.size() == b.rows_count),
          "the arrays of a step disagree in length");
  require(b.query_start[0] == 0 && b.query_start[b.seqs] == b.tokens_count, "query_start must run from 0 to the token count");
  for (int s = 0; s < b.seqs; s++) {
    const int from = b.query_start[s], to = b.query_start[s + 1], len = b.context_len[s];
    require(from < to, "every sequence of a step needs a token");
    require(len >= to - from && (len + kPage - 1) / kPage <= b.blocks, "context_len does not fit the block table");
    for (int t = from; t < to; t++) require(b.positions[t] == len - (to - t), "positions must end at context_len");
    for (int i = 0; i < (len + kPage - 1) / kPage; i++) {
      const int page = b.block_tables[(size_t)s * b.blocks + i];
      require(page >= 0 && page < m.pages, "block table names page " + std::to_string(page) + " of " + std::to_string(m.pages));
    }
  }
  for (int t = 0; t < b.tokens_count; t++)
    require(b.tokens[t] >= 0 && b.tokens[t] < m.vocab(), "token id " + std::to_string(b.tokens[t]) + " is outside the vocabulary");
  for (int r = 0; r < b.rows_count; r++) {
    require(b.rows[r] >= 0 && b.rows[r] < b.tokens_count, "a row is outside the step");
    require(b.targets[r] >= 0 ? b.targets[r] < m.vocab() : b.samplers[r] != nullptr, "a row needs a target or a sampler");
    if (!b.drafts || b.drafts[r] < 0) continue;
    require(r + 1 < b.rows_count && b.rows[r + 1] == b.rows[r] + 1 && b.tokens[b.rows[r + 1]] == b.drafts[r] &&
                b.targets[r] < 0 && b.targets[r + 1] < 0 && b.samplers[r + 1] == b.samplers[r],
            "the row after a draft must be the draft's own, with the same sampler");
  }
  b.narrows = !b.hidden_count && b.rows_count < b.tokens_count;
  for (int r = 1; r < b.rows_count; r++) b.narrows = b.narrows && b.rows[r - 1] < b.rows[r];
  require(!b.hidden_count || m.hidden_width(), "this model has no hidden states to give");
  std::vector<bool> taken(b.tokens_count);
  for (int r = 0; r < b.rows_count; r++) taken[b.rows[r]] = true;
  for (int i = 0; i < b.hidden_count; i++) {
    require(b.hidden[i] >= 0 && b.hidden[i] < b.tokens_count && !taken[b.hidden[i]], "hidden names each token once, and no row");
    taken[b.hidden[i]] = true;
  }
  return b;
}

// Masks of allowed tokens for a step's rows; `bits` may still be written until the gate opens.
void set_masks(Batch& b, const Model& m, const Masks& bits, const Ints& index, const Gate& ready) {
  require((int)index.size() == b.rows_count && (int)bits.shape(1) == (m.vocab() + 31) / 32, "the masks do not fit the step");
  for (int r = 0; r < b.rows_count; r++)
    require(index.data()[r] >= -1 && index.data()[r] < (int64_t)bits.shape(0), "a row names a mask that is not there");
  b.mask_bits = bits.data();
  b.mask_index = index.data();
  b.masks_ready = &ready;
}

nb::tuple step(Model& m, const BatchArrays& arrays, std::vector<Sampler*> samplers, const Masks* bits = nullptr,
               const Ints* index = nullptr, const Gate* ready = nullptr) {
  Batch batch = make_batch(m, arrays, std::move(samplers));
  if (bits) set_masks(batch, m, *bits, *index, *ready);
  std::vector<Sampled> out;
  {
    nb::gil_scoped_release release;
    out = m.step(batch);
  }
  const size_t n = out.size();
  std::vector<int32_t> tokens(n), rank(n);
  std::vector<uint8_t> status(n);
  std::vector<float> logprob(n);
  nb::list top;
  for (size_t i = 0; i < n; i++) {
    tokens[i] = out[i].skipped ? -1 : out[i].token;
    rank[i] = out[i].rank;
    status[i] = out[i].skipped ? 2 : out[i].finite ? 0 : 1;
    logprob[i] = out[i].logprob;
    top.append(nb::cast(out[i].top));
  }
  nb::object hidden = nb::none();
  if (batch.hidden_count) {
    const size_t asked = batch.hidden_count, width = m.hidden_width();
    std::vector<float> states(asked * width);
    for (size_t i = 0; i < asked; i++) memcpy(&states[i * width], m.hidden(batch, (int)i), width * sizeof(float));
    hidden = to_numpy({asked, width}, states.data(), states.size());
  }
  return nb::make_tuple(to_numpy({n}, tokens.data(), n), to_numpy({n}, status.data(), n), to_numpy({n}, logprob.data(), n),
                        to_numpy({n}, rank.data(), n), top, hidden, m.spoiled(batch));
}

nb::object logits(Model& m, const BatchArrays& arrays) {
  Sampler unused({}, {});
  const Batch batch = make_batch(m, arrays, std::vector<Sampler*>(arrays.rows.size(), &unused));
  {
    nb::gil_scoped_release release;
    m.forward(batch);
  }
  const size_t rows = (size_t)batch.rows_count, vocab = (size_t)m.vocab();
  std::vector<float> out(rows * vocab);
  for (size_t r = 0; r < rows; r++) memcpy(&out[r * vocab], m.logits((int)r), vocab * sizeof(float));
  return to_numpy({rows, vocab}, out.data(), out.size());
}

}  // namespace

void steps(nb::class_<Model>& model) {
  model.def("step",
           [](Model& m, std::vector<Sampler*> samplers, Ints tokens, Ints positions, Ints query_start, Ints context_len,
              Table block_tables, Ints rows, Ints targets, Ints logprobs, Ints drafts, Ints hidden) {
             return step(m, {tokens, positions, query_start, context_len, block_tables, rows, targets, logprobs, drafts, hidden},
                         std::move(samplers));
           },
           "samplers"_a, "tokens"_a, "positions"_a, "query_start"_a, "context_len"_a, "block_tables"_a, "rows"_a, "targets"_a, "logprobs"_a,
           "drafts"_a, "hidden"_a)
      .def("step_masked",
           [](Model& m, std::vector<Sampler*> samplers, Ints tokens, Ints positions, Ints query_start, Ints context_len,
              Table block_tables, Ints rows, Ints targets, Ints logprobs, Ints drafts, Ints hidden, Ints index, Masks bits,
              const Gate& ready) {
             return step(m, {tokens, positions, query_start, context_len, block_tables, rows, targets, logprobs, drafts, hidden},
                         std::move(samplers), &bits, &index, &ready);
           },
           "samplers"_a, "tokens"_a, "positions"_a, "query_start"_a, "context_len"_a, "block_tables"_a, "rows"_a, "targets"_a, "logprobs"_a,
           "drafts"_a, "hidden"_a, "index"_a, nb::arg("bits").noconvert(), "ready"_a)
      .def("logits",
           [](Model& m, Ints tokens, Ints positions, Ints query_start, Ints context_len, Table block_tables, Ints rows, Ints targets,
              Ints logprobs, Ints drafts) {
             return logits(m, {tokens, positions, query_start, context_len, block_tables, rows, targets, logprobs, drafts, Ints()});
           },
           "tokens"_a, "positions"_a, "query_start"_a, "context_len"_a, "block_tables"_a, "rows"_a, "targets"_a, "logprobs"_a, "drafts"_a);
}

}  // namespace befit::bind
