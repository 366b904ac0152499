#include "core/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace befit {
namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();

// The finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014), but for its last shift.
uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  return (z ^ (z >> 27)) * 0x94D049BB133111EBull;
}

// Uniform in [0, 1) from a seed and a counter.
double uniform(uint64_t seed, uint64_t index) {
  uint64_t z = mix(seed + (index + 1) * 0x9E3779B97F4A7C15ull);
  z ^= z >> 31;
  return (double)(z >> 11) * 0x1p-53;
}

constexpr float kWatermarkDelta = 2;

// The half of the vocabulary that the watermark favours after a token: as befit/watermark.py has it.
bool favoured(int before, int token) {
  return mix((uint64_t)token + (uint64_t)(before + 1) * 0x9E3779B97F4A7C15ull) >> 63;
}

struct Candidate {
  int id;
  float logit;
  double p;  // exp((logit - max) / temperature), not normalised
};

bool likelier(const Candidate& a, const Candidate& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

// Bans the tokens whose bit is 0.
void restrict_to(const uint32_t* mask, float* logits, int vocab) {
  for (int first = 0; first < vocab; first += 32) {
    const uint32_t word = mask[first / 32];
    if (word == ~0u) continue;
    const int n = std::min(32, vocab - first);
    for (int i = 0; i < n; i++)
      if (!(word >> i & 1)) logits[first + i] = kBanned;
  }
}

// The candidates above max - depth, likeliest first.
void gather(const Kernels& k, const float* logits, int vocab, float max, float depth, double scale, std::vector<Candidate>& out) {
  std::vector<int> ids(1024);
  int found = k.above(logits, vocab, max - depth, ids.data(), (int)ids.size());
  if (found > (int)ids.size()) {
    ids.resize(found);
    k.above(logits, vocab, max - depth, ids.data(), found);
  }
  out.clear();
  for (int i = 0; i < found; i++) out.push_back({ids[i], logits[ids[i]], std::exp((logits[ids[i]] - max) * scale)});
  std::sort(out.begin(), out.end(), likelier);
}

// Keeps the candidates whose information content is nearest to the entropy, up to `mass` of the total.
void keep_typical(std::vector<Candidate>& c, double mass) {
  double total = 0, entropy = 0;
  for (const Candidate& x : c) total += x.p;
  for (const Candidate& x : c)
    if (x.p > 0) entropy -= x.p / total * std::log(x.p / total);
  const auto distance = [&](const Candidate& x) { return x.p > 0 ? std::fabs(-std::log(x.p / total) - entropy) : INFINITY; };
  std::stable_sort(c.begin(), c.end(), [&](const Candidate& a, const Candidate& b) { return distance(a) < distance(b); });
  double sum = 0;
  size_t n = 0;
  while (n < c.size() && sum < mass * total) sum += c[n++].p;
  c.resize(std::max<size_t>(n, 1));
  std::sort(c.begin(), c.end(), likelier);
}

}  // namespace

void score(const Kernels& k, const float* logits, int vocab, float max, int token, int count, Sampled& out) {
  const double log_total = std::log(k.sum_exp(logits, vocab, max, 1.0f)) + max;
  out.logprob = (float)(logits[token] - log_total);
  out.rank = 1 + k.above(logits, vocab, logits[token], nullptr, 0);
  for (int i = 0; i < token; i++) out.rank += logits[i] == logits[token];  // ties rank by id
  if (count <= 0) return;
  count = std::min(count, vocab);
  std::vector<Candidate> best;
  for (float depth = 8;; depth *= 2) {
    gather(k, logits, vocab, max, depth, 1, best);
    if ((int)best.size() >= count || depth > 1e6f) break;
  }
  for (int i = 0; i < count && i < (int)best.size(); i++) out.top.push_back({best[i].id, (float)(best[i].logit - log_total)});
}

Sampler::Sampler(SamplerSpec spec, const std::vector<int>& prompt) : spec_(std::move(spec)) {
  if (spec_.repetition_penalty != 1)
    for (int id : prompt) seen_[id].in_prompt = true;
  if (!prompt.empty()) before_ = prompt.back();
}

void Sampler::adjust(float* logits, int vocab) const {
  for (const auto& [id, seen] : seen_) {
    if (id < 0 || id >= vocab) continue;
    float& x = logits[id];
    const float r = spec_.repetition_penalty;
    if (r != 1) x = x > 0 ? std::min(x / r, std::numeric_limits<float>::max()) : x * r;
    if (seen.in_output) x -= spec_.frequency_penalty * (float)seen.in_output + spec_.presence_penalty;
  }
  for (const auto& [id, bias] : spec_.logit_bias)
    if (id < vocab) logits[id] += bias;
  const int before = output_.empty() ? before_ : output_.back();
  if (spec_.watermark && before >= 0)
    for (int id = 0; id < vocab; id++)
      if (favoured(before, id)) logits[id] += kWatermarkDelta;
  if ((int)output_.size() < spec_.min_tokens)
    for (int id : spec_.stop_ids)
      if (id < vocab) logits[id] = kBanned;
  for (const std::vector<int>& word : spec_.bad_words) {
    const size_t front = word.size() - 1;
    if (word.back() < vocab && output_.size() >= front && std::equal(word.begin(), word.end() - 1, output_.end() - front))
      logits[word.back()] = kBanned;
  }
  if (!spec_.allowed_ids.empty()) {
    std::vector<std::pair<int, float>> kept;
    for (int id : spec_.allowed_ids)
      if (id < vocab) kept.push_back({id, logits[id]});
    std::fill(logits, logits + vocab, kBanned);
    for (const auto& [id, x] : kept) logits[id] = x;
  }
}

// Inverse CDF over the survivors of the filters, likeliest first. Only as much of the tail is looked at as is needed.
int Sampler::draw(const Kernels& k, const float* logits, int vocab, float max) const {
  const double scale = 1.0 / spec_.temperature;
  const double u = uniform(spec_.seed, output_.size());
  const bool all = spec_.typical_p < 1;
  const double total = spec_.top_k ? 0 : k.sum_exp(logits, vocab, max, (float)scale);
  std::vector<Candidate> c;
  for (float depth = all ? 1e30f : 12 * std::max(spec_.temperature, 0.05f);; depth = depth < 1e6f ? depth * 2 : 1e30f) {
    gather(k, logits, vocab, max, depth, scale, c);
    const bool complete = depth >= 1e30f;
    if (spec_.top_k && (int)c.size() < spec_.top_k && !complete) continue;
    if (spec_.top_k && (int)c.size() > spec_.top_k) c.resize(spec_.top_k);
    double mass = 0;
    for (const Candidate& x : c) mass += x.p;
    const double whole = spec_.top_k ? mass : total;
    // With a nucleus the walk below ends inside the candidates once they hold top_p; without one, once they hold u.
    const double needed = (spec_.top_p < 1 ? spec_.top_p : u) * whole;
    if (!complete && !spec_.top_k && !(mass > needed)) continue;
    if (spec_.top_p < 1) {
      double sum = 0;
      size_t n = 0;
      while (n < c.size() && sum < spec_.top_p * whole) sum += c[n++].p;
      c.resize(std::max<size_t>(n, 1));
    }
    const bool cut = spec_.top_p < 1 || spec_.top_k;
    if (spec_.min_p > 0) {
      if (!cut && !complete && c.back().p >= spec_.min_p) continue;  // the threshold lies deeper
      while (c.size() > 1 && c.back().p < spec_.min_p) c.pop_back();
    }
    if (all) keep_typical(c, spec_.typical_p);
    double left = whole;
    if (cut || spec_.min_p > 0 || all) {
      left = 0;
      for (const Candidate& x : c) left += x.p;
    }
    double sum = 0;
    for (const Candidate& x : c)
      if ((sum += x.p) > u * left) return x.id;
    if (complete || cut) return c.back().id;
  }
}

Sampled Sampler::sample(const Kernels& k, float* logits, int vocab, int logprobs, const uint32_t* mask) {
  Sampled out;
  float max;
  int best = 0;
  if (!k.peak(logits, vocab, &max, &best)) {
    out.finite = false;
    return out;
  }
  const float raw_max = max;
  const bool adjusted = mask || spec_.watermark || !seen_.empty() || !spec_.logit_bias.empty() || !spec_.bad_words.empty() || !spec_.allowed_ids.empty() ||
                        ((int)output_.size() < spec_.min_tokens && !spec_.stop_ids.empty());
  std::vector<float> raw;
  if (adjusted) {
    if (logprobs >= 0) raw.assign(logits, logits + vocab);
    adjust(logits, vocab);
    if (mask) restrict_to(mask, logits, vocab);
    best = (int)(std::max_element(logits, logits + vocab) - logits);
    max = logits[best];
    if (!std::isfinite(max)) {  // every token is banned
      out.finite = false;
      return out;
    }
  }
  out.token = spec_.temperature > 0 ? draw(k, logits, vocab, max) : best;
  if (logprobs >= 0) score(k, adjusted ? raw.data() : logits, vocab, raw_max, out.token, logprobs, out);
  output_.push_back(out.token);
  if (spec_.frequency_penalty != 0 || spec_.presence_penalty != 0 || spec_.repetition_penalty != 1) seen_[out.token].in_output++;
  return out;
}

}  // namespace befit
