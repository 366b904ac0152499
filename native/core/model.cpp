#include "core/model.hpp"

#include <cmath>
#include <stdexcept>

namespace befit {

float* Value::make_floats(int tokens) { return (float*)memory_.emplace_back((size_t)tokens * width * sizeof(float)).data(); }

QAct Value::make_integers(int tokens) {
  const size_t blocks = (size_t)(tokens + kBlockTokens - 1) / kBlockTokens;
  QAct q;
  q.groups = width / kGroup;
  q.q = (int8_t*)memory_.emplace_back(blocks * q.pairs() * QAct::kBytes).data();
  q.d = (float*)memory_.emplace_back(blocks * kBlockTokens * sizeof(float)).data();
  q.sums = (int32_t*)memory_.emplace_back(blocks * q.groups * 2 * kBlockTokens * sizeof(int32_t)).data();
  q.parts = (int16_t*)memory_.emplace_back(blocks * q.pairs() * 4 * kBlockTokens * sizeof(int16_t)).data();
  return q;
}

void Value::allocate(int tokens, int threads) {
  if (floats) shared_.f = make_floats(tokens);
  if (quantized) shared_.q = make_integers(tokens);
  for (int t = 0; (local || quantized) && t < threads; t++) {
    View v = shared_;
    if (floats && local) v.f = make_floats(1);
    if (quantized) v.q = make_integers(1);
    private_.push_back(v);
  }
}

size_t Value::bytes() const {
  size_t sum = 0;
  for (const Memory& m : memory_) sum += m.bytes();
  return sum;
}

Model::Model(const Kernels& k, int threads, KvType kv_type_, int max_tokens_, int max_rows_, int pages_)
    : kernels(k), pool(threads), kv_type(kv_type_), max_tokens(max_tokens_), max_rows(max_rows_), pages(pages_),
      spoiled_(std::make_unique<std::atomic<bool>[]>(max_tokens_)) {}

int Model::add_value(int width, bool floats, bool quantized, bool local) {
  Value v;
  v.width = (width + kGroup - 1) / kGroup * kGroup;
  v.floats = floats;
  v.quantized = quantized;
  v.local = local;
  values.push_back(std::move(v));
  return (int)values.size() - 1;
}

int Model::add_matrix(Matrix form) {
  form.data = weights_.allocate(form.bytes());
  matrices.push_back(form);
  return (int)matrices.size() - 1;
}

void Model::pack(const std::vector<Rows>& weights) {
  std::vector<Packing> work;
  for (const auto& [matrix, first, from] : weights) work.push_back({from, matrices[matrix].part(first, from.rows)});
  befit::pack(work, pool);
}

void Model::read(int file, const std::vector<std::pair<int, size_t>>& weights) {
  std::vector<Reading> work;
  for (const auto& [matrix, offset] : weights) work.push_back({offset, matrices[matrix]});
  const std::string problem = read_tiles(file, work, pool);
  if (!problem.empty()) throw std::runtime_error(problem);
}

int Model::add_rope(int dim, bool interleaved, float scale, std::vector<double> inv_freq) {
  ropes.push_back({dim, interleaved, scale, std::move(inv_freq), std::vector<float>((size_t)max_tokens * dim)});
  return (int)ropes.size() - 1;
}

size_t Model::add_layer(int kv_heads, int head_dim) {
  const size_t at = page_bytes_;
  page_bytes_ += kv_heads * kv_head_bytes(kv_type, head_dim);
  return at;
}

AttentionPlan* Model::plan(int kv_heads, int share, int dim, int window) {
  for (const std::unique_ptr<AttentionPlan>& p : plans_)
    if (p->kv_heads == kv_heads && p->share == share && p->dim == dim && p->window == window) return p.get();
  return plans_.emplace_back(std::make_unique<AttentionPlan>(kv_heads, share, dim, window)).get();
}

void Model::finish() {
  for (size_t i = 0; i < values.size(); i++) values[i].allocate((int)i == logits_ ? max_rows : max_tokens, pool.size());
  kv_ = Memory(page_bytes_ * (size_t)pages);
}

size_t Model::buffer_bytes() const {
  size_t sum = 0;
  for (const Value& v : values) sum += v.bytes();
  for (const RopeTable& r : ropes) sum += r.turns.size() * sizeof(float);
  return sum;
}

void Model::run(const Batch& batch, int thread) {
  const Step step{*this, batch, thread, pool.size()};
  const auto [from, to] = step.share(batch.tokens_count);
  for (RopeTable& r : ropes)  // the first op's barrier publishes these
    for (int t = from; t < to; t++)
      for (int i = 0; i < r.dim / 2; i++) {
        const double angle = batch.positions[t] * r.inv_freq[i];
        r.turns[(size_t)t * r.dim + i] = (float)(std::cos(angle) * r.scale);
        r.turns[(size_t)t * r.dim + r.dim / 2 + i] = (float)(std::sin(angle) * r.scale);
      }
  for (const std::unique_ptr<Op>& op : ops_)
    if (op->count(batch)) op->run(step);
}

void Model::begin(const Batch& batch) {
  for (const std::unique_ptr<AttentionPlan>& p : plans_) p->make(batch, pool.size());
  if (any_spoiled_.exchange(false, std::memory_order_relaxed))
    for (int t = 0; t < max_tokens; t++) spoiled_[t].store(false, std::memory_order_relaxed);
  for (const std::unique_ptr<Op>& op : ops_) {
    op->division.reset();
    op->next = 0;
  }
}

std::vector<int> Model::spoiled(const Batch& batch) const {
  std::vector<int> found;
  for (int t = 0; any_spoiled_ && t < batch.tokens_count; t++)
    if (spoiled_[t]) found.push_back(t);
  return found;
}

// Whether the row's own token, or one before it in its sequence and this step, was spoiled.
bool Model::sees_spoiled(const Batch& batch, int r) const {
  if (!any_spoiled_) return false;
  const int32_t* next = std::upper_bound(batch.query_start, batch.query_start + batch.seqs, batch.rows[r]);
  for (int t = next[-1]; t <= batch.rows[r]; t++)
    if (spoiled_[t]) return true;
  return false;
}

void Model::forward(const Batch& batch) {
  begin(batch);
  pool.run([&](int thread) { run(batch, thread); });
}

// Rows are taken as threads get to them; the rows after drafts of one sequence belong to whoever takes its first, because
// one sampler draws for all of them, in order, as far as the drafts are what it drew.
void Model::sample(const Batch& batch, std::vector<Sampled>& out) {
  const auto drafted = [&](int r) { return batch.drafts && batch.drafts[r] >= 0; };
  for (int r; (r = next_row_.fetch_add(1)) < batch.rows_count;) {
    if (r > 0 && drafted(r - 1)) continue;
    sample_row(batch, r, out[r]);
    for (; drafted(r); r++) {
      const bool accepted = !out[r].skipped && out[r].finite && out[r].token == batch.drafts[r];
      if (accepted) sample_row(batch, r + 1, out[r + 1]);
      else out[r + 1].skipped = true;
    }
  }
}

void Model::sample_row(const Batch& batch, int r, Sampled& out) {
  if (sees_spoiled(batch, r)) {
    out.finite = false;
    return;
  }
  float* x = logits(r);
  if (batch.targets[r] < 0) {
    out = batch.samplers[r]->sample(kernels, x, vocab_, batch.logprobs[r], batch.mask(r, vocab_));
    return;
  }
  float max;
  int best = 0;
  out.token = batch.targets[r];
  out.finite = kernels.peak(x, vocab_, &max, &best);
  if (out.finite) score(kernels, x, vocab_, max, batch.targets[r], batch.logprobs[r], out);
}

std::vector<Sampled> Model::step(const Batch& batch) {
  begin(batch);
  next_row_ = 0;
  std::vector<Sampled> out(batch.rows_count);
  pool.run([&](int thread) {
    run(batch, thread);
    if (batch.masks_ready) batch.masks_ready->wait();
    sample(batch, out);
  });
  return out;
}

}  // namespace befit
