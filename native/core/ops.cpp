#include "core/ops.hpp"

#include <algorithm>
#include <cstring>

namespace befit {
namespace {

constexpr int kUnit = 2 * kTileRows;  // rows a thread takes at a time: one group of the next quantised activations

// Tiles `first` and `first + 1` of a matrix times up to kCallTokens tokens, scaled and biased: out[m][32].
void multiply(const Step& s, const Matrix& w, const Value& x, const Value::View& in, int first, int token, int count,
              const std::vector<float>& bias, float (*out)[kUnit]) {
  for (int half = 0; half < 2; half++) {
    float* to = out[0] + half * kTileRows;
    if (first + half >= w.tiles()) {
      for (int m = 0; m < count; m++) memset(to + m * kUnit, 0, sizeof(float) * kTileRows);
      continue;
    }
    const uint8_t* tile = w.tile(first + half);
    if (is_quantized(w.format)) s.model.kernels.gemm(w.format, tile, in.q, token, count, to, kUnit);
    else s.model.kernels.gemm_dense(w.format, tile, w.columns, x.row(in, token), x.width, count, to, kUnit);
  }
  if (w.unit != 1)
    for (int i = 0; i < count * kUnit; i++) out[0][i] *= w.unit;
  if (!bias.empty())
    for (int m = 0; m < count; m++) s.model.kernels.add(out[m], bias.data() + first * kTileRows, kUnit, out[m]);
}

void put(const Step& s, const Value& out, const Value::View& to, int token, int column, const float* y) {
  if (out.floats) memcpy(out.row(to, token) + column, y, sizeof(float) * kUnit);
  if (out.quantized) s.model.kernels.quantize(y, to.q, token, column / kGroup, 1);
}

}  // namespace

void EmbedOp::run(const Step& s) {
  const auto [from, to] = s.share(s.batch.tokens_count);
  const Value& v = s.model.values[out];
  const Value::View& view = v.view(s.thread, s.batch.tokens_count);
  for (int t = from; t < to; t++) {
    float* y = v.row(view, t);
    table.read_row(s.batch.tokens[t], y);
    if (scale != 1)
      for (int i = 0; i < table.columns; i++) y[i] *= scale;
  }
  s.barrier();
}

void NormOp::one(const Step& s, int from, int to, int count) {
  const Value &src = s.model.values[x], &dst = s.model.values[out];
  const Value::View &in = src.view(s.thread, count), &view = dst.view(s.thread, count);
  const int n = (int)weight.size();
  alignas(64) thread_local static std::vector<float> buffer;
  buffer.resize(n);
  for (int t = from; t < to; t++) {
    const int rows = s.batch.rows_count;
    const float* a = src.row(in, !rows_only ? t : t < rows ? s.batch.rows[t] : s.batch.hidden[t - rows]);
    float* y = dst.floats && !add ? dst.row(view, t) : buffer.data();
    if (layer) s.model.kernels.layer_norm(a, weight.data(), bias.empty() ? nullptr : bias.data(), n, eps, y);
    else s.model.kernels.rms_norm(a, weight.data(), n, eps, y);
    if (add) {
      float* sum = dst.row(view, t);
      s.model.kernels.add(sum, y, n, sum);
    }
    if (dst.quantized) s.model.kernels.quantize(y, view.q, t, 0, n / kGroup);
  }
}

void NormOp::run(const Step& s) {
  const int n = count(s.batch);
  if (n == 1 && s.model.values[out].local) return one(s, 0, 1, 1);
  const auto [from, to] = s.share(n);
  one(s, from, to, n);
  s.barrier();
}

void LinearOp::run(const Step& s) {
  const int n = count(s.batch);
  const Value& src = s.model.values[x];
  // The norm before a head has written the H positions too, if there are any.
  const Value::View& in = src.view(s.thread, rows_only ? n + s.batch.hidden_count : n);
  int units = 0;
  for (const Part& p : parts) units += (s.model.matrices[p.matrix].tiles() + 1) / 2;
  division.run(s, units, [&](int from, int to) {
    int base = 0;
    for (const Part& p : parts) {
      const Matrix& w = s.model.matrices[p.matrix];
      const Value& dst = s.model.values[p.out];
      const Value::View& view = dst.view(s.thread, n);
      const int mine = (w.tiles() + 1) / 2;
      for (int u = std::max(from, base); u < std::min(to, base + mine); u++)
        for (int t = 0; t < n; t += kCallTokens) {
          const int m = std::min(kCallTokens, n - t), row = (u - base) * kUnit;
          alignas(64) float y[kCallTokens][kUnit];
          multiply(s, w, src, in, 2 * (u - base), t, m, p.bias, y);
          for (int i = 0; i < m; i++) {
            if (p.act) s.model.kernels.activate(*p.act, y[i], kUnit, y[i]);
            if (p.add) s.model.kernels.add(dst.row(view, t + i) + row, y[i], kUnit, dst.row(view, t + i) + row);
            else put(s, dst, view, t + i, row, y[i]);
          }
        }
      base += mine;
    }
  });
  s.barrier();
}

void GatedOp::run(const Step& s) {
  const int n = count(s.batch);
  const Value &src = s.model.values[x], &dst = s.model.values[out];
  const Value::View &in = src.view(s.thread, n), &view = dst.view(s.thread, n);
  const Matrix &g = s.model.matrices[gate], &w = s.model.matrices[up];
  division.run(s, (g.tiles() + 1) / 2, [&](int from, int to) {
    for (int u = from; u < to; u++)
      for (int t = 0; t < n; t += kCallTokens) {
        const int m = std::min(kCallTokens, n - t);
        alignas(64) float a[kCallTokens][kUnit], b[kCallTokens][kUnit];
        multiply(s, g, src, in, 2 * u, t, m, gate_bias, a);
        multiply(s, w, src, in, 2 * u, t, m, up_bias, b);
        s.model.kernels.gated(act, a[0], b[0], m * kUnit, a[0]);
        for (int i = 0; i < m; i++) put(s, dst, view, t + i, u * kUnit, a[i]);
      }
  });
  s.barrier();
}

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
  const Value &keys = s.model.values[k], &values = s.model.values[v];
  float* key = keys.row(keys.shared(), token) + head * dim;
  if (!k_norm.empty()) s.model.kernels.rms_norm(key, k_norm.data(), dim, norm_eps, key);
  rotate(s, token, key);
  const int position = b.positions[token], slot = position % kPage;
  const size_t page = (size_t)b.block_tables[(size_t)seq * b.blocks + position / kPage];
  uint16_t* to = s.model.kv() + page * s.model.page_elements() + layer;
  uint16_t half[512];
  s.model.kernels.to_half(key, dim, half);
  uint16_t* column = to + (size_t)head * dim * kPage + slot;
  for (int d = 0; d < dim; d++) column[d * kPage] = half[d];
  const float* value = values.row(values.shared(), token) + head * dim;
  s.model.kernels.to_half(value, dim, to + (size_t)(kv_heads + head) * dim * kPage + (size_t)slot * dim);
}

// The queries of tokens from .. to-1 that share one KV head, against all they may see.
void AttentionOp::attend(const Step& s, int seq, int head, int from, int to) const {
  const Value &queries = s.model.values[q], &dst = s.model.values[out];
  const Value::View &in = queries.shared(), &view = dst.shared();
  const int share = heads / kv_heads, rows = (to - from) * share;
  const float log2e = 1.44269504f;
  thread_local static std::vector<const float*> q_rows;
  thread_local static std::vector<float*> out_rows;
  thread_local static std::vector<int32_t> last, first;
  thread_local static std::vector<float> results;
  q_rows.resize(rows);
  out_rows.resize(rows);
  last.resize(rows);
  first.resize(rows);
  results.resize((size_t)rows * dim);
  for (int t = from, r = 0; t < to; t++)
    for (int j = 0; j < share; j++, r++) {
      float* x = queries.row(in, t) + (head * share + j) * dim;
      if (!q_norm.empty()) s.model.kernels.rms_norm(x, q_norm.data(), dim, norm_eps, x);
      rotate(s, t, x);
      for (int d = 0; d < dim; d++) x[d] *= scale * log2e;
      q_rows[r] = x;
      out_rows[r] = results.data() + (size_t)r * dim;
      last[r] = s.batch.positions[t];
      first[r] = window ? std::max(0, last[r] - window + 1) : 0;
    }
  alignas(64) float scratch[8 * kAttnTile];
  AttendCall c;
  c.k = s.model.kv() + layer;
  c.v = c.k + (size_t)kv_heads * dim * kPage;
  c.page_stride = s.model.page_elements();
  c.table = s.batch.block_tables + (size_t)seq * s.batch.blocks;
  c.kv_head = head;
  c.dim = dim;
  c.rows = rows;
  c.q = q_rows.data();
  c.out = out_rows.data();
  c.last = last.data();
  c.first = first.data();
  c.scratch = scratch;
  s.model.kernels.attend(c);
  for (int t = from, r = 0; t < to; t++)
    for (int j = 0; j < share; j++, r++)
      for (int d = 0, column = (head * share + j) * dim; d < dim; d += kUnit) put(s, dst, view, t, column + d, out_rows[r] + d);
}

void AttentionOp::run(const Step& s) {
  const Batch& b = s.batch;
  if (b.tokens_count == b.seqs) {  // one query a sequence: nobody else reads what an item writes
    for (int i; (i = next.fetch_add(1)) < b.seqs * kv_heads;) {
      const int seq = i / kv_heads, head = i % kv_heads;
      store(s, seq, seq, head);
      attend(s, seq, head, seq, seq + 1);
    }
    return s.barrier();
  }
  const auto [from, to] = s.share(b.tokens_count);
  for (int seq = 0; seq < b.seqs; seq++)
    for (int t = std::max(from, b.query_start[seq]); t < std::min(to, b.query_start[seq + 1]); t++)
      for (int head = 0; head < kv_heads; head++) store(s, t, seq, head);
  s.barrier();
  constexpr int kQueries = 16;  // queries of one item: enough rows to reuse a page from cache, few enough to balance
  int items = 0;
  for (int seq = 0; seq < b.seqs; seq++) items += (b.query_start[seq + 1] - b.query_start[seq] + kQueries - 1) / kQueries;
  // Late chunks of a prompt see more keys than early ones: taking items from the end evens the threads out.
  int seq = b.seqs - 1, base = items;
  for (int i; (i = next.fetch_add(1)) < items * kv_heads;) {
    const int item = items - 1 - i / kv_heads;
    int chunks;
    while (chunks = (b.query_start[seq + 1] - b.query_start[seq] + kQueries - 1) / kQueries, item < base - chunks) {
      base -= chunks;
      seq--;
    }
    const int first_token = b.query_start[seq] + (item - (base - chunks)) * kQueries;
    attend(s, seq, i % kv_heads, first_token, std::min(first_token + kQueries, (int)b.query_start[seq + 1]));
  }
  s.barrier();
}

void ElementOp::run(const Step& s) {
  const int n = count(s.batch);
  const Value& src = s.model.values[a];
  const Value::View& in = src.shared();
  const auto [from, to] = s.share(n);
  for (int t = from; t < to; t++) {
    if (kind == quantize) {
      s.model.kernels.quantize(src.row(in, t), in.q, t, 0, src.width / kGroup);
      continue;
    }
    const Value& dst = s.model.values[out];
    const Value::View& view = dst.shared();
    thread_local static std::vector<float> buffer;
    buffer.resize(dst.width);
    float* y = dst.floats ? dst.row(view, t) : buffer.data();
    if (kind == activate) s.model.kernels.activate(act, src.row(in, t), src.width, y);
    else {
      const Value& other = s.model.values[b];
      const float* z = other.row(other.shared(), t);
      if (kind == add) s.model.kernels.add(src.row(in, t), z, src.width, y);
      else s.model.kernels.gated(act, src.row(in, t), z, src.width, y);
    }
    if (dst.quantized) s.model.kernels.quantize(y, view.q, t, 0, dst.width / kGroup);
  }
  s.barrier();
}

}  // namespace befit
