#include "core/ops.hpp"

#include <algorithm>
#include <cstring>

namespace befit {
namespace {

constexpr int kUnit = 2;  // tiles that a thread takes at a time, at least: whole cache lines of their results
constexpr int kResults = 8192;  // floats of a thread's own: they stay in its cache

// Some tiles of a matrix times some tokens, with the bias: out[count][stride].
void multiply(const Step& s, const Matrix& w, const Value& x, const Value::View& in, int tile, int tiles, int token, int count,
              const std::vector<float>& bias, float* out, size_t stride) {
  if (is_quantized(w.format)) s.model.kernels.gemm(w.format, w.tile(tile), tiles, in.q, token, count, out, stride);
  else s.model.kernels.gemm_dense(w.format, w.tile(tile), tiles, w.columns, x.row(in, token), x.width, count, out, stride);
  if (!bias.empty())
    for (int m = 0; m < count; m++) {
      float* y = out + m * stride;
      s.model.kernels.add(y, bias.data() + tile * kTileRows, tiles * kTileRows, y);
    }
}

// Calls work(first tile, tiles, first token, tokens) over tiles from .. to-1 and all tokens, in pieces whose results fit.
template <typename Work> void in_pieces(int from, int to, int count, const Work& work) {
  for (int t = 0; t < count; t += kCallTokens) {
    const int tokens = std::min(kCallTokens, count - t), most = std::max(kUnit, kResults / kTileRows / tokens);
    for (int tile = from; tile < to; tile += most) work(tile, std::min(most, to - tile), t, tokens);
  }
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
    const float* a = src.row(in, !rows_only || (behind && s.batch.narrows) ? t : t < rows ? s.batch.rows[t] : s.batch.hidden[t - rows]);
    float* y = dst.floats && !add ? dst.row(view, t) : buffer.data();
    if (layer) s.model.kernels.layer_norm(a, weight.data(), bias.empty() ? nullptr : bias.data(), n, eps, y);
    else s.model.kernels.rms_norm(a, weight.data(), n, eps, y);
    if (add) {
      float* sum = dst.row(view, t);
      s.model.kernels.add(sum, y, n, sum);
    }
    if (dst.quantized && dst.local) s.model.kernels.quantize(y, view.q, t);
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
  for (const Part& p : parts) units += (s.model.matrices[p.matrix].tiles() + kUnit - 1) / kUnit;
  division.run(s, units, [&](int from, int to) {
    int base = 0;  // number of the part's first unit
    for (const Part& p : parts) {
      const Matrix& w = s.model.matrices[p.matrix];
      const Value& dst = s.model.values[p.out];
      const Value::View& view = dst.view(s.thread, n);
      const int first = std::max(from - base, 0) * kUnit, last = std::min((to - base) * kUnit, w.tiles());
      in_pieces(first, last, n, [&](int tile, int tiles, int t, int tokens) {
        const int rows = tiles * kTileRows;
        alignas(64) float own[kResults];
        float* y = p.add ? own : dst.row(view, t) + tile * kTileRows;
        const size_t stride = p.add ? rows : dst.width;
        multiply(s, w, src, in, tile, tiles, t, tokens, p.bias, y, stride);
        for (int m = 0; m < tokens; m++, y += stride) {
          if (p.act) s.model.kernels.activate(*p.act, y, rows, y);
          if (!p.add) continue;
          float* sum = dst.row(view, t + m) + tile * kTileRows;
          s.model.kernels.add(sum, y, rows, sum);
        }
      });
      base += (w.tiles() + kUnit - 1) / kUnit;
    }
  });
  s.barrier();
}

void GatedOp::run(const Step& s) {
  const int n = count(s.batch);
  const Value &src = s.model.values[x], &dst = s.model.values[out];
  const Value::View &in = src.view(s.thread, n), &view = dst.view(s.thread, n);
  const Matrix &g = s.model.matrices[gate], &w = s.model.matrices[up];
  division.run(s, (g.tiles() + kUnit - 1) / kUnit, [&](int from, int to) {
    in_pieces(from * kUnit, std::min(to * kUnit, g.tiles()), n, [&](int tile, int tiles, int t, int tokens) {
      const int rows = tiles * kTileRows;
      alignas(64) float a[kResults], b[kResults];
      multiply(s, g, src, in, tile, tiles, t, tokens, gate_bias, a, rows);
      multiply(s, w, src, in, tile, tiles, t, tokens, up_bias, b, rows);
      for (int m = 0; m < tokens; m++)
        s.model.kernels.gated(act, a + m * rows, b + m * rows, rows, dst.row(view, t + m) + tile * kTileRows);
    });
  });
  s.barrier();
}

void SelectOp::run(const Step& s) {
  const Batch& b = s.batch;
  if (!b.narrows || b.rows_count == 0) return;
  for (int v : values) {
    const Value& value = s.model.values[v];
    const Value::View &from = value.view(s.thread, b.tokens_count), &to = value.view(s.thread, b.rows_count);
    const bool own = from.f != to.f;  // one row, which every thread has for itself
    const auto [first, last] = own ? std::pair(0, value.width) : s.share(value.width);
    for (int r = 0; r < b.rows_count; r++)
      memmove(value.row(to, r) + first, value.row(from, b.rows[r]) + first, sizeof(float) * (last - first));
  }
  s.barrier();
}

void ElementOp::run(const Step& s) {
  const int n = count(s.batch);
  const Value& src = s.model.values[a];
  if (kind == quantize) {
    const Value::View& view = src.view(s.thread, n);
    if (n == 1) return s.model.kernels.quantize(src.row(view, 0), view.q, 0);
    const auto [from, to] = s.share(n);
    for (int t = from; t < to; t++) s.model.kernels.quantize(src.row(view, t), view.q, t);
    return s.barrier();
  }
  const Value& dst = s.model.values[out];
  const auto [from, to] = s.share(n);
  for (int t = from; t < to; t++) {
    const float* x = src.row(src.shared(), t);
    float* y = dst.row(dst.shared(), t);
    if (kind == activate) {
      s.model.kernels.activate(act, x, src.width, y);
      continue;
    }
    const Value& other = s.model.values[b];
    const float* z = other.row(other.shared(), t);
    if (kind == add) s.model.kernels.add(x, z, src.width, y);
    else s.model.kernels.gated(act, x, z, src.width, y);
  }
  s.barrier();
}

}  // namespace befit
