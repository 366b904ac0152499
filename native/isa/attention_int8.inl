// Attention over bytes. Queries and weights are rounded to 16 bits, so that all products and their sums are exact integers.
// Keys carry a scale a token, which multiplies its score; values too, and it multiplies the token's weight. The layout of
// a page is in core/kernels.hpp.

constexpr int kPagePieces = kPage / kLanes;
constexpr float kTop16 = 32639.0f;  // 256 * 127 + 127: both bytes in -127..127
// Vectors of each row that the innermost loops keep in registers; sums of products with 16 bits take two.
constexpr int byte_vectors(int rows) { return kLanes == 16 ? (rows <= 3 ? 4 : rows <= 7 ? 2 : 1) : kLanes == 8 && rows > 2 ? 1 : 2; }

template <int R> struct Rounded {
  alignas(64) uint8_t query[R][2 * kMaxHeadDim];
  alignas(64) uint8_t weight[R][2 * kAttnTile];
  float query_scale[R], weight_scale[R];
  int32_t query_sum[R], weight_sum[R];
};

// x times `inverse`, which must be in range, as 16-bit integers; returns their sum.
static inline int32_t round16(const float* x, int n, float inverse, uint8_t* out) {
  VI sum = i_zero();
  const VF by = f_set(inverse);
  for (int i = 0; i < n; i += kLanes) {
    const VI v = i_from(f_mul(f_load(x + i), by));
    sum = i_add(sum, v);
    w_store(out + 2 * i, v);
  }
  return i_hsum(sum);
}

static const float* key_scales(const uint8_t* page, int dim) { return (const float*)(page + (size_t)2 * kPage * dim); }
static const float* value_scales(const uint8_t* page, int dim) { return key_scales(page, dim) + kPage; }

template <int R> static void round_query(Rounded<R>& b, int r, const float* q, int dim) {
  VF top = f_zero(), poison = f_zero();
  for (int i = 0; i < dim; i += kLanes) {
    const VF v = f_load(q + i);
    top = f_max(top, f_abs(v));
    poison = f_fma(v, f_zero(), poison);
  }
  const float peak = f_hmax(top);
  b.query_scale[r] = peak / kTop16 + f_hsum(poison);
  b.query_sum[r] = round16(q, dim, peak > 1e-30f && peak < 1e38f ? kTop16 / peak : 0.0f, b.query[r]);
}

// Scores of R rows and C vectors of tokens from the tile's vector `piece` on. The same pages' values are fetched meanwhile.
template <int R, int C> static void score_bytes(const Rounded<R>& b, const uint8_t* const* page, int dim, int piece, float (*s)[kAttnTile]) {
  const uint8_t *k[C], *values[C];
#pragma GCC unroll 4
  for (int c = 0; c < C; c++) {
    const int at = piece + c;
    k[c] = page[at / kPagePieces] + at % kPagePieces * kLanes * 4;
    values[c] = page[at / kPagePieces] + (size_t)dim * kPage;
  }
  Acc acc[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) acc[r][c] = a_zero();
  for (int d = 0; d < dim; d += 4) {
    VK x[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) {
      if (c % kPagePieces == 0) prefetch(values[c] + d * kPage);
      x[c] = k_load(k[c] + d * kPage);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) a_dot(acc[r][c], x[c], b.query[r] + 2 * d);
  }
#pragma GCC unroll 4
  for (int c = 0; c < C; c++) {
    const int at = piece + c;
    const VF scale = f_load(key_scales(page[at / kPagePieces], dim) + at % kPagePieces * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const VI exact = i_sub(a_total(acc[r][c]), i_set(128 * b.query_sum[r]));
      f_store(s[r] + at * kLanes, f_mul(i_float(exact), f_mul(scale, f_set(b.query_scale[r]))));
    }
  }
}

template <int R> static void score_tile(const Rounded<R>& b, const uint8_t* const* page, int pages, int dim, float (*s)[kAttnTile]) {
  constexpr int C = byte_vectors(R);
  int piece = 0;
  for (; piece + C <= pages * kPagePieces; piece += C) score_bytes<R, C>(b, page, dim, piece, s);
  for (; piece < pages * kPagePieces; piece++) score_bytes<R, 1>(b, page, dim, piece, s);
}

// Weights times the values' scales, rounded.
template <int R> static void round_weights(Rounded<R>& b, int r, const uint8_t* const* page, int pages, int dim, float* s) {
  VF top = f_zero();
  for (int t = 0; t < pages * kPage; t += kLanes) {
    const VF w = f_mul(f_load(s + t), f_load(value_scales(page[t / kPage], dim) + t % kPage));
    top = f_max(top, w);
    f_store(s + t, w);
  }
  const float peak = f_hmax(top);
  b.weight_scale[r] = peak / kTop16;
  b.weight_sum[r] = round16(s, pages * kPage, peak > 1e-30f ? kTop16 / peak : 0.0f, b.weight[r]);
}

// R rows' weights times C vectors of the values, added to the faded results. The next tile's keys are fetched meanwhile.
template <int R, int C>
static void mix_bytes(const Rounded<R>& b, const uint8_t* const* page, const uint8_t* const* next, int pages, int dim, int d0, const VF* fade,
                      float* const* out) {
  Acc acc[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) acc[r][c] = a_zero();
  for (int p = 0; p < pages; p++) {
    const uint8_t* four = page[p] + (size_t)dim * kPage + d0 * 4;
    if (!d0)
      for (int i = 0; i < 2 * kPage; i += 16) prefetch(key_scales(next[p], dim) + i);
    for (int t = 0; t < kPage; t += 4, four += dim * 4) {
      for (int c = 0; c < C * kLanes * 4; c += 64) prefetch(next[p] + t * dim + d0 * 4 + c);
      VK x[C];
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) x[c] = k_load(four + c * kLanes * 4);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) a_dot(acc[r][c], x[c], b.weight[r] + (p * kPage + t) * 2);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    float* to = out[r] + d0;
    const VF scale = f_set(b.weight_scale[r]), faded = fade[r];
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) {
      const VI exact = i_sub(a_total(acc[r][c]), i_set(128 * b.weight_sum[r]));
      f_store(to + c * kLanes, f_fma(i_float(exact), scale, f_mul(f_load(to + c * kLanes), faded)));
    }
  }
}

template <int R>
static void mix_tile(const Rounded<R>& b, const uint8_t* const* page, const uint8_t* const* next, int pages, int dim, const VF* fade,
                     float* const* out) {
  constexpr int C = byte_vectors(R);
  int d = 0;
  for (; d + C * kLanes <= dim; d += C * kLanes) mix_bytes<R, C>(b, page, next, pages, dim, d, fade, out);
  for (; d < dim; d += kLanes) mix_bytes<R, 1>(b, page, next, pages, dim, d, fade, out);
}

static float to_int8(const float* x, int n, uint8_t* out) {
  const VF lo = f_set(-65504.0f), hi = f_set(65504.0f);
  float y[kMaxHeadDim];
  VF top = f_zero();
  for (int i = 0; i < n; i += kLanes) {
    const VF v = f_load(x + i);
    const VF finite = f_keep_ge(f_min(f_max(v, lo), hi), f_mul(v, v), f_zero());  // a comparison with NaN is false
    f_store(y + i, finite);
    top = f_max(top, f_abs(finite));
  }
  const float peak = f_hmax(top);
  const VF inverse = f_set(peak > 1e-30f ? 127.0f / peak : 0.0f);
  for (int i = 0; i < n; i += kLanes) {
    int32_t q[kLanes];
    const VI v = i_from(f_mul(f_load(y + i), inverse));
    __builtin_memcpy(q, &v, sizeof q);
    for (int k = 0; k < kLanes; k++) out[i + k] = (uint8_t)(q[k] + 128);
  }
  return peak / 127.0f;
}
