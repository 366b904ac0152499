// Matrix kernels over packed tiles. The order of float operations for one token never depends on how many tokens share
// the call, so a request's numbers do not change with its company in the batch.

// Sum of products of `N` weight vectors from `w` with the activations at the same columns.
template <Format F, bool Wide, int N> static inline VI dot(const VI* w, const int8_t* high, const int8_t* low) {
  VI x = i_zero();
  for (int j = 0; j < N; j++) x = F == Format::q8s ? i_dot8(x, w[j], high + 4 * j) : i_dot(x, w[j], high + 4 * j);
  if constexpr (Wide) {
    x = i_shl<8>(x);
    for (int j = 0; j < N; j++) x = F == Format::q8s ? i_dot8(x, w[j], low + 4 * j) : i_dot(x, w[j], low + 4 * j);
  }
  return x;
}

template <Format F, bool Wide, int M> static void gemm_tile(const uint8_t* p, const QAct& act, int token, float* out) {
  const size_t cell = act.cell(token);
  const int8_t *high = act.high + cell * kGroup, *low = Wide ? act.low + cell * kGroup : nullptr;
  const float *d = act.d + cell, *sum = act.sum + cell;
  const float* half = act.half + 2 * (cell - token % kBlockTokens) + token % kBlockTokens;
  constexpr int ints = integer_bytes(F), bytes = group_bytes(F);
  VF acc[NV][M];
  for (int h = 0; h < NV; h++)
    for (int m = 0; m < M; m++) acc[h][m] = f_zero();
  for (int g = 0; g < act.groups; g++) {
    if constexpr (M > 2)
      for (int b = 0; b < bytes; b += 64) prefetch(p + 2048 + b);
    const uint16_t* scales = (const uint16_t*)(p + ints);
#pragma GCC unroll 4
    for (int h = 0; h < NV; h++) {
      VI w[8];
      expand<F>(p, h, w);
      const VF s = f_load16(scales + h * kLanes);
      if constexpr (F == Format::q6s) {
        const VF s2 = f_load16(scales + 16 + h * kLanes);
        const VF z = f_mul(s, f_set(zero_of(F))), z2 = f_mul(s2, f_set(zero_of(F)));
#pragma GCC unroll 16
        for (int m = 0; m < M; m++) {
          const int8_t *a = high + m * kGroup, *b = low + m * kGroup;
          const VF dm = f_set(d[m]);
          VF t = f_fma(i_float(dot<F, Wide, 4>(w, a, b)), f_mul(s, dm), acc[h][m]);
          t = f_fma(i_float(dot<F, Wide, 4>(w + 4, a + 16, b + 16)), f_mul(s2, dm), t);
          t = f_fnma(z, f_set(half[m]), t);
          acc[h][m] = f_fnma(z2, f_set(half[kBlockTokens + m]), t);
        }
      } else {
        const VF z = is_affine(F) ? f_load16(scales + 16 + h * kLanes) : f_mul(s, f_set(zero_of(F)));
#pragma GCC unroll 16
        for (int m = 0; m < M; m++) {
          const VI x = dot<F, Wide, 8>(w, high + m * kGroup, low + m * kGroup);
          const VF t = f_fma(i_float(x), f_mul(s, f_set(d[m])), acc[h][m]);
          acc[h][m] = f_fnma(z, f_set(sum[m]), t);
        }
      }
    }
    p += bytes;
    high += kBlockTokens * kGroup;
    low += Wide ? kBlockTokens * kGroup : 0;
    d += kBlockTokens;
    sum += kBlockTokens;
    half += 2 * kBlockTokens;
  }
  for (int m = 0; m < M; m++)
    for (int h = 0; h < NV; h++) f_store(out + m * kTileRows + h * kLanes, acc[h][m]);
}

template <Format F, bool Wide> static void gemm_count(const uint8_t* p, const QAct& a, int token, int count, float* out) {
  while (count > 0) {
    const int m = count < kMaxTokens ? count : kMaxTokens;
    switch (m) {
      case 1: gemm_tile<F, Wide, 1>(p, a, token, out); break;
      case 2: gemm_tile<F, Wide, 2>(p, a, token, out); break;
      case 3: gemm_tile<F, Wide, kMaxTokens < 3 ? 1 : 3>(p, a, token, out); break;
      case 4: gemm_tile<F, Wide, kMaxTokens < 4 ? 1 : 4>(p, a, token, out); break;
      case 5: gemm_tile<F, Wide, kMaxTokens < 5 ? 1 : 5>(p, a, token, out); break;
      case 6: gemm_tile<F, Wide, kMaxTokens < 6 ? 1 : 6>(p, a, token, out); break;
      case 7: gemm_tile<F, Wide, kMaxTokens < 7 ? 1 : 7>(p, a, token, out); break;
      default: gemm_tile<F, Wide, kMaxTokens < 8 ? 1 : 8>(p, a, token, out); break;
    }
    token += m;
    count -= m;
    out += m * kTileRows;
  }
}

template <Format F> static void gemm_width(const uint8_t* p, const QAct& a, int token, int count, float* out) {
  if (a.low) gemm_count<F, true>(p, a, token, count, out);
  else gemm_count<F, false>(p, a, token, count, out);
}

static void gemm(Format f, const uint8_t* p, const QAct& a, int token, int count, float* out) {
  switch (f) {
    case Format::q4a: return gemm_width<Format::q4a>(p, a, token, count, out);
    case Format::q4s: return gemm_width<Format::q4s>(p, a, token, count, out);
    case Format::q5a: return gemm_width<Format::q5a>(p, a, token, count, out);
    case Format::q5s: return gemm_width<Format::q5s>(p, a, token, count, out);
    case Format::q6s: return gemm_width<Format::q6s>(p, a, token, count, out);
    default: return gemm_width<Format::q8s>(p, a, token, count, out);
  }
}

template <Format F> static inline VF load_dense(const uint8_t* p, int lane) {
  if constexpr (F == Format::f32) return f_load((const float*)p + lane);
  if constexpr (F == Format::f16) return f_load16((const uint16_t*)p + lane);
  return f_loadbf((const uint16_t*)p + lane);
}

template <Format F, int M> static void dense_tile(const uint8_t* p, int columns, const float* x, size_t stride, float* out) {
  // Two sums for even and odd columns hide the latency of the multiply-add when few tokens share the call.
  VF acc[2][NV][M];
  for (int o = 0; o < 2; o++)
    for (int h = 0; h < NV; h++)
      for (int m = 0; m < M; m++) acc[o][h][m] = f_zero();
  for (int k = 0; k < columns; k++) {
    const int o = k & 1;
#pragma GCC unroll 4
    for (int h = 0; h < NV; h++) {
      const VF w = load_dense<F>(p, h * kLanes);
#pragma GCC unroll 8
      for (int m = 0; m < M; m++)
        (o ? acc[1] : acc[0])[h][m] = f_fma(w, f_set(x[m * stride + k]), (o ? acc[1] : acc[0])[h][m]);
    }
    p += kTileRows * element_bytes(F);
  }
  for (int m = 0; m < M; m++)
    for (int h = 0; h < NV; h++) f_store(out + m * kTileRows + h * kLanes, f_add(acc[0][h][m], acc[1][h][m]));
}

template <Format F> static void dense_count(const uint8_t* p, int columns, const float* x, size_t stride, int count, float* out) {
  while (count > 0) {
    const int m = count >= 4 && kMaxTokens >= 4 ? 4 : count >= 2 ? 2 : 1;
    if (m == 4) dense_tile<F, kMaxTokens < 4 ? 1 : 4>(p, columns, x, stride, out);
    else if (m == 2) dense_tile<F, 2>(p, columns, x, stride, out);
    else dense_tile<F, 1>(p, columns, x, stride, out);
    x += m * stride;
    count -= m;
    out += m * kTileRows;
  }
}

static void gemm_dense(Format f, const uint8_t* p, int columns, const float* x, size_t stride, int count, float* out) {
  if (f == Format::f32) return dense_count<Format::f32>(p, columns, x, stride, count, out);
  if (f == Format::f16) return dense_count<Format::f16>(p, columns, x, stride, count, out);
  return dense_count<Format::bf16>(p, columns, x, stride, count, out);
}
