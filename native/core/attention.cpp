#include <algorithm>
#include <cstring>

#include "core/ops.hpp"

namespace befit {
namespace {

// Multiplies blocks of x by a Hadamard matrix of +1 and -1, in place; returns its size, the largest power of two in n.
// Queries and keys are both turned by it, which leaves their products as they are (but for the factor `size`) and
// spreads what stands out in one channel over all: then one scale a key is fine enough (QuaRot, arXiv 2404.00456).
int hadamard(float* x, int n) {
  const int size = n & -n;
  for (int half = 1; half < size; half *= 2)
    for (int i = 0; i < n; i += 2 * half)
      for (int j = i; j < i + half; j++) {
        const float a = x[j], b = x[j + half];
        x[j] = a + b;
        x[j + half] = a - b;
      }
  return size;
}

}  // namespace

void AttentionOp::rotate(const Step& s, int token, float* x) const {
  if (rope < 0) return;
  const RopeTable& r = s.model.ropes[rope];
  const float *cos = &r.turns[(size_t)token * r.dim], *sin = cos + r.dim / 2;
  const int half = r.dim / 2;
  for (int i = 0; i < half; i++) {
    float &a = r.interleaved ? x[2 * i] : x[i], &b = r.interleaved ? x[2 * i + 1] : x[i + half];
    const float u = a * cos[i] - b * sin[i], w = a * sin[i] + b * cos[i];
    a = u;
    b = w;
  }
}

// Key and value of one token and head into their page.
void AttentionOp::store(const Step& s, int token, int seq, int head) const {
  const Batch& b = s.batch;
  const Kernels& kernels = s.model.kernels;
  const Value &keys = s.model.values[k], &values = s.model.values[v];
  float* key = keys.row(keys.shared(), token) + head * dim;
  const float* value = values.row(values.shared(), token) + head * dim;
  if (!k_norm.empty()) kernels.rms_norm(key, k_norm.data(), dim, norm_eps, key);
  rotate(s, token, key);
  // What is not finite is stored as if it were: the answer would be wrong, and nothing later would show it.
  float largest;
  int at;
  if (!kernels.peak(key, dim, &largest, &at) || !kernels.peak(value, dim, &largest, &at)) s.model.spoil(token);
  const int position = b.positions[token], slot = position % kPage;
  const size_t number = (size_t)b.block_tables[(size_t)seq * b.blocks + position / kPage];
  uint8_t* page = s.model.kv() + number * s.model.page_bytes() + layer + head * kv_head_bytes(s.model.kv_type, dim);
  if (s.model.kv_type == KvType::f16) {
    uint16_t half[kMaxHeadDim], *to = (uint16_t*)page;
    kernels.to_half(key, dim, half);
    for (int d = 0; d < dim; d++) to[d * kPage + slot] = half[d];
    kernels.to_half(value, dim, to + (size_t)(kPage + slot) * dim);
    return;
  }
  uint8_t bytes[kMaxHeadDim], *to = page;
  float* scales = (float*)(page + (size_t)2 * kPage * dim);
  if (!k_center.empty())
    for (int d = 0; d < dim; d++) key[d] -= k_center[head * dim + d];
  hadamard(key, dim);
  scales[slot] = kernels.to_int8(key, dim, bytes);
  for (int d = 0; d < dim; d += 4) memcpy(to + d * kPage + slot * 4, bytes + d, 4);
  to += (size_t)kPage * dim + slot / 4 * dim * 4 + slot % 4;
  scales[kPage + slot] = kernels.to_int8(value, dim, bytes);
  for (int d = 0; d < dim; d++) to[d * 4] = bytes[d];
}

// The block's queries that share a KV head, [rows][dim], ready for the kernel.
void AttentionOp::queries(const Step& s, const AttentionPlan::Block& b, int head, float* to) const {
  const Value& from = s.model.values[q];
  const float factor = scale * 1.44269504f;
  for (int t = b.from; t < b.to; t++)
    for (int j = 0; j < plan->share; j++, to += dim) {
      const float* x = from.row(from.shared(), t) + (head * plan->share + j) * dim;
      if (q_norm.empty()) memcpy(to, x, sizeof(float) * dim);
      else s.model.kernels.rms_norm(x, q_norm.data(), dim, norm_eps, to);
      rotate(s, t, to);
      const float by = s.model.kv_type == KvType::int8 ? factor / (float)hadamard(to, dim) : factor;
      for (int d = 0; d < dim; d++) to[d] *= by;
    }
}

void AttentionOp::finish(const Step& s, const AttentionPlan::Block& b, int head, const float* results) const {
  const Value& dst = s.model.values[out];
  const int width = plan->share * dim;
  for (int t = b.from; t < b.to; t++, results += width) memcpy(dst.row(dst.shared(), t) + head * width, results, sizeof(float) * width);
}

void AttentionOp::attend(const Step& s, const AttentionPlan::Unit& unit, int head) const {
  const AttentionPlan::Block& b = plan->blocks()[unit.block];
  const int rows = plan->rows(b);
  thread_local static std::vector<float> turned, results;
  thread_local static std::vector<int32_t> last, first;
  turned.resize((size_t)rows * dim);
  results.resize((size_t)rows * dim);
  last.resize(rows);
  first.resize(rows);
  queries(s, b, head, turned.data());
  for (int t = b.from, r = 0; t < b.to; t++)
    for (int j = 0; j < plan->share; j++, r++) {
      last[r] = s.batch.positions[t];
      first[r] = window ? std::max(0, last[r] - window + 1) : 0;
    }
  AttendCall c;
  c.pages = s.model.kv() + layer + head * kv_head_bytes(s.model.kv_type, dim);
  c.page_stride = s.model.page_bytes();
  c.table = s.batch.block_tables + (size_t)b.seq * s.batch.blocks;
  c.type = s.model.kv_type;
  c.dim = dim;
  c.begin = unit.begin;
  c.end = unit.end;
  c.rows = rows;
  c.q = turned.data();
  c.last = last.data();
  c.first = first.data();
  c.apart = b.units > 1;
  c.out = c.apart ? plan->part(b, head, (unit.begin - b.begin) / kAttnChunk) : results.data();
  s.model.kernels.attend(c);
  if (c.apart) {
    if (!plan->last(unit.block, head)) return;
    s.model.kernels.join(plan->part(b, head, 0), b.chunks(), rows, dim, results.data());
  }
  finish(s, b, head, results.data());
}

void AttentionOp::run(const Step& s) {
  const Batch& b = s.batch;
  const bool single = b.tokens_count == b.seqs;  // one query a sequence: only the unit with the newest position reads it
  if (!single) {
    const auto [from, to] = s.share(b.tokens_count);
    for (int seq = 0; seq < b.seqs; seq++)
      for (int t = std::max(from, b.query_start[seq]); t < std::min(to, b.query_start[seq + 1]); t++)
        for (int head = 0; head < plan->kv_heads; head++) store(s, t, seq, head);
    s.barrier();
  }
  const int heads = plan->kv_heads;
  for (int i; (i = next.fetch_add(1)) < (int)plan->units().size() * heads;) {
    const AttentionPlan::Unit& unit = plan->units()[i / heads];
    const AttentionPlan::Block& block = plan->blocks()[unit.block];
    if (single && unit.end == block.end) store(s, block.from, block.seq, i % heads);
    attend(s, unit, i % heads);
  }
  s.barrier();
}

}  // namespace befit
