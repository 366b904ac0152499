// Picks the next token of one sequence from its logits, without sorting the vocabulary.
#pragma once
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/kernels.hpp"

namespace befit {

struct SamplerSpec {
  float temperature = 0, top_p = 1, min_p = 0, typical_p = 1;
  float repetition_penalty = 1, frequency_penalty = 0, presence_penalty = 0;
  int top_k = 0, min_tokens = 0;
  uint64_t seed = 0;
  std::vector<std::pair<int, float>> logit_bias;
  std::vector<std::vector<int>> bad_words;
  std::vector<int> stop_ids;
  std::vector<int> allowed_ids;  // if any, no other may be sampled
  bool watermark = false;        // see befit/watermark.py
};

// What one row of logits gave. `top` lists the likeliest tokens of the model's own distribution. A `skipped` row came after
// a draft that was not what its sequence sampled: nothing was sampled for it.
struct Sampled {
  int token = 0;
  bool finite = true, skipped = false;
  float logprob = 0;
  int rank = 0;
  std::vector<std::pair<int, float>> top;
};

// Log-probability, rank and the `count` likeliest tokens, from raw logits. `max` is the largest logit.
void score(const Kernels&, const float* logits, int vocab, float max, int token, int count, Sampled& out);

class Sampler {
 public:
  Sampler(SamplerSpec spec, const std::vector<int>& prompt);
  // Changes `logits` in place. logprobs < 0: no log-probabilities; else that many likeliest tokens. `mask` has a bit a
  // token, set where it is allowed; null allows all.
  Sampled sample(const Kernels&, float* logits, int vocab, int logprobs, const uint32_t* mask);

 private:
  struct Seen {
    int in_output = 0;
    bool in_prompt = false;
  };
  void adjust(float* logits, int vocab) const;
  int draw(const Kernels&, const float* logits, int vocab, float max) const;

  SamplerSpec spec_;
  std::unordered_map<int, Seen> seen_;  // filled only when a penalty needs it
  std::vector<int> output_;
  int before_ = -1;  // the prompt's last token, for the watermark
};

}  // namespace befit
