// Matrix kernels over packed tiles. The order of float operations for one token never depends on how many tokens share
// the call, so a request's numbers do not change with its company in the batch.

// Products of N vectors of weights, from w, with the activations of T tokens at the same columns. Integer sums are exact
// in any order: several chains run side by side because one chain alone would wait for the multiplier's latency.
template <Format F, bool Wide, int N, int T> static inline void dot(const VI* w, const int8_t* a, VI (&out)[T]) {
  constexpr int bytes = QAct::bytes(Wide);
  if constexpr (kShortSums && F != Format::q8s) {
    for (int t = 0; t < T; t++) {
      out[t] = i_dot_short<bits_of(F), N>(w, a + t * bytes);
      if constexpr (Wide) out[t] = i_add(i_shl<4>(out[t]), i_dot_short<bits_of(F), N>(w, a + t * bytes + kGroup));
    }
    return;
  }
  constexpr int C = N == 4 ? 1 : T <= 2 ? 2 : 1, L = Wide ? 2 : 1;
  VI x[L][T][C];
  for (int l = 0; l < L; l++)
    for (int t = 0; t < T; t++)
      for (int c = 0; c < C; c++) x[l][t][c] = i_zero();
#pragma GCC unroll 8
  for (int j = 0; j < N; j++)
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
      x[0][t][j % C] = i_dot(x[0][t][j % C], w[j], a + t * bytes + 4 * j);
      if constexpr (Wide) x[1][t][j % C] = i_dot(x[1][t][j % C], w[j], a + t * bytes + kGroup + 4 * j);
    }
#pragma GCC unroll 4
  for (int t = 0; t < T; t++) {
    for (int l = 0; l < L; l++)
      for (int c = 1; c < C; c++) x[l][t][0] = i_add(x[l][t][0], x[l][t][c]);
    out[t] = Wide ? i_add(i_shl<4>(x[0][t][0]), x[L - 1][t][0]) : x[0][t][0];
  }
}

// The same for one token and weights of 4 bits, as they lie. The upper nibbles stay where they are, as 16 q: for a single
// token it is cheaper to shift their sum.
template <bool Wide> static inline VI dot_one(const uint8_t* p, int h, const int8_t* a) {
  const VI low = b_set(15), high = b_set(-16);
  VI x = i_zero(), y = i_zero(), xl = i_zero(), yl = i_zero();
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) {
    const VI w = i_load(p + 64 * j + h * kLanes * 4);
    x = i_dot(x, b_and(w, low), a + 4 * j);
    y = i_dot(y, b_and(w, high), a + 16 + 4 * j);
    if constexpr (Wide) {
      xl = i_dot(xl, b_and(w, low), a + kGroup + 4 * j);
      yl = i_dot(yl, b_and(w, high), a + kGroup + 16 + 4 * j);
    }
  }
  if constexpr (Wide) return i_add(i_add(i_shl<4>(x), xl), i_add(y, i_sar<4>(yl)));
  return i_add(x, i_sar<4>(y));
}

template <Format F, bool Wide, int M> static void gemm_tile(const uint8_t* p, const QAct& act, int token, float* out, size_t stride) {
  const size_t cell = act.cell(token);
  constexpr int act_bytes = QAct::bytes(Wide);
  const int8_t* q = act.q + cell * act_bytes;
  const float *d = act.d + cell, *sum = act.sum + cell;
  const float* half = act.half + 2 * (cell - token % kBlockTokens) + token % kBlockTokens;
  constexpr int ints = integer_bytes(F), bytes = group_bytes(F);
  VF acc[NV][M];
  for (int h = 0; h < NV; h++)
    for (int m = 0; m < M; m++) acc[h][m] = f_zero();
  for (int g = 0; g < act.groups; g++) {
    for (int b = 0; b < bytes; b += 64) prefetch(p + 2048 + b);
    const uint16_t* scales = (const uint16_t*)(p + ints);
#pragma GCC unroll 4
    for (int h = 0; h < NV; h++) {
      constexpr bool one = M == 1 && bits_of(F) == 4 && !kShortSums;
      VI w[8];
      if constexpr (!one) expand<F>(p, h, w);
      const VF s = f_load16(scales + h * kLanes);
      constexpr int T = M % 4 == 0 ? 4 : M % 2 == 0 ? 2 : M == 1 ? 1 : 3;  // tokens side by side
      const VF s2 = F == Format::q6s ? f_load16(scales + 16 + h * kLanes) : s;
      const VF z = is_affine(F) ? f_load16(scales + 16 + h * kLanes) : f_mul(s, f_set(zero_of(F)));
      const VF z2 = f_mul(s2, f_set(zero_of(F)));
#pragma GCC unroll 4
      for (int m0 = 0; m0 < M; m0 += T) {
        const int8_t* a = q + m0 * act_bytes;
        if constexpr (F == Format::q6s) {
          VI x[T], y[T];
          dot<F, Wide, 4, T>(w, a, x);
          dot<F, Wide, 4, T>(w + 4, a + 16, y);
#pragma GCC unroll 4
          for (int t = 0; t < T; t++) {
            const int m = m0 + t;
            const VF dm = f_set(d[m]);
            VF r = f_fma(i_float(x[t]), f_mul(s, dm), acc[h][m]);
            r = f_fma(i_float(y[t]), f_mul(s2, dm), r);
            r = f_fnma(z, f_set(half[m]), r);
            acc[h][m] = f_fnma(z2, f_set(half[kBlockTokens + m]), r);
          }
        } else {
          VI x[T];
          if constexpr (one) x[0] = dot_one<Wide>(p, h, a);
          else dot<F, Wide, 8, T>(w, a, x);
#pragma GCC unroll 4
          for (int t = 0; t < T; t++) {
            const int m = m0 + t;
            const VF r = f_fma(i_float(x[t]), f_mul(s, f_set(d[m])), acc[h][m]);
            acc[h][m] = f_fnma(z, f_set(sum[m]), r);
          }
        }
      }
    }
    p += bytes;
    q += kBlockTokens * act_bytes;
    d += kBlockTokens;
    sum += kBlockTokens;
    half += 2 * kBlockTokens;
  }
  for (int m = 0; m < M; m++)
    for (int h = 0; h < NV; h++) f_store(out + m * stride + h * kLanes, acc[h][m]);
}

template <Format F, bool Wide> static void gemm_count(const uint8_t* p, const QAct& a, int token, int count, float* out, size_t stride) {
  while (count > 0) {
    int m = count < kMaxTokens ? count : kMaxTokens;  // divides a block, so a call never crosses one
    if (m == 5 || m == 7) m--;
    switch (m) {
      case 1: gemm_tile<F, Wide, 1>(p, a, token, out, stride); break;
      case 2: gemm_tile<F, Wide, 2>(p, a, token, out, stride); break;
      case 3: gemm_tile<F, Wide, kMaxTokens < 3 ? 1 : 3>(p, a, token, out, stride); break;
      case 4: gemm_tile<F, Wide, kMaxTokens < 4 ? 1 : 4>(p, a, token, out, stride); break;
      case 6: gemm_tile<F, Wide, kMaxTokens < 6 ? 1 : 6>(p, a, token, out, stride); break;
      default: gemm_tile<F, Wide, kMaxTokens < 8 ? 1 : 8>(p, a, token, out, stride); break;
    }
    token += m;
    count -= m;
    out += m * stride;
  }
}

template <Format F> static void gemm_width(const uint8_t* p, const QAct& a, int token, int count, float* out, size_t stride) {
  if (a.wide) gemm_count<F, true>(p, a, token, count, out, stride);
  else gemm_count<F, false>(p, a, token, count, out, stride);
}

static void gemm(Format f, const uint8_t* p, const QAct& a, int token, int count, float* out, size_t stride) {
  switch (f) {
    case Format::q4a: return gemm_width<Format::q4a>(p, a, token, count, out, stride);
    case Format::q4s: return gemm_width<Format::q4s>(p, a, token, count, out, stride);
    case Format::q5a: return gemm_width<Format::q5a>(p, a, token, count, out, stride);
    case Format::q5s: return gemm_width<Format::q5s>(p, a, token, count, out, stride);
    case Format::q6s: return gemm_width<Format::q6s>(p, a, token, count, out, stride);
    default: return gemm_width<Format::q8s>(p, a, token, count, out, stride);
  }
}

template <Format F> static inline VF load_dense(const uint8_t* p, int lane) {
  if constexpr (F == Format::f32) return f_load((const float*)p + lane);
  if constexpr (F == Format::f16) return f_load16((const uint16_t*)p + lane);
  return f_loadbf((const uint16_t*)p + lane);
}

template <Format F, int M> static void dense_tile(const uint8_t* p, int columns, const float* x, size_t x_stride, float* out, size_t stride) {
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
        (o ? acc[1] : acc[0])[h][m] = f_fma(w, f_set(x[m * x_stride + k]), (o ? acc[1] : acc[0])[h][m]);
    }
    p += kTileRows * element_bytes(F);
  }
  for (int m = 0; m < M; m++)
    for (int h = 0; h < NV; h++) f_store(out + m * stride + h * kLanes, f_add(acc[0][h][m], acc[1][h][m]));
}

template <Format F> static void dense_count(const uint8_t* p, int columns, const float* x, size_t x_stride, int count, float* out, size_t stride) {
  while (count > 0) {
    const int m = count >= 4 && kMaxTokens >= 4 ? 4 : count >= 2 ? 2 : 1;
    if (m == 4) dense_tile<F, kMaxTokens < 4 ? 1 : 4>(p, columns, x, x_stride, out, stride);
    else if (m == 2) dense_tile<F, 2>(p, columns, x, x_stride, out, stride);
    else dense_tile<F, 1>(p, columns, x, x_stride, out, stride);
    x += m * x_stride;
    count -= m;
    out += m * stride;
  }
}

static void gemm_dense(Format f, const uint8_t* p, int columns, const float* x, size_t x_stride, int count, float* out, size_t stride) {
  if (f == Format::f32) return dense_count<Format::f32>(p, columns, x, x_stride, count, out, stride);
  if (f == Format::f16) return dense_count<Format::f16>(p, columns, x, x_stride, count, out, stride);
  return dense_count<Format::bf16>(p, columns, x, x_stride, count, out, stride);
}
