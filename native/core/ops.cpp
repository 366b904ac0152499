#include "core/ops.hpp"

#include <algorithm>
#include <cstring>

namespace befit {
namespace {

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

}  // namespace

void put(const Step& s, const Value& out, const Value::View& to, int token, int column, const float* y) {
  if (out.floats) memcpy(out.row(to, token) + column, y, sizeof(float) * kUnit);
  if (out.quantized) s.model.kernels.quantize(y, to.q, token, column / kGroup, 1);
}

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
    const float* a = src.row(in, rows_only ? s.batch.rows[t] : t);
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
  const int n = count(s);
  if (n == 1 && s.model.values[out].local) return one(s, 0, 1, 1);
  const auto [from, to] = s.share(n);
  one(s, from, to, n);
  s.barrier();
}

void LinearOp::run(const Step& s) {
  const int n = count(s);
  const Value& src = s.model.values[x];
  const Value::View& in = src.view(s.thread, n);
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
  const int n = count(s);
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

void ElementOp::run(const Step& s) {
  const int n = count(s);
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
