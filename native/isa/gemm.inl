// Matrix kernels over packed tiles. The order of float operations for one token never depends on how many tokens share
// the call, so a request's numbers do not change with its company in the batch.

constexpr int NV = kTileRows / kLanes;  // vectors that cover a tile's rows

template <Format F> static inline void expand(const uint8_t* p, int h, VI (&w)[8]) {
  const int at = h * kLanes * 4;
  if constexpr (F == Format::q8s) {
    for (int j = 0; j < 8; j++) w[j] = i_load(p + 64 * j + at);
  } else {
    const VI low = b_set(15);
    for (int j = 0; j < 4; j++) {
      VI x = i_load(p + 64 * j + at);
      w[j] = b_and(x, low);
      w[j + 4] = b_and(w_shr<4>(x), low);
    }
    if constexpr (F == Format::q5a || F == Format::q5s)
      for (int j = 0; j < 8; j++) w[j] = b_plus16(w[j], p + 256 + 8 * j + at / 8);
    if constexpr (F == Format::q6s)
      for (int i = 0; i < 2; i++) {
        VI x = i_load(p + 256 + 64 * i + at);
        w[4 * i] = b_or(w[4 * i], w_shl<4>(b_and(x, b_set(0x03))));
        w[4 * i + 1] = b_or(w[4 * i + 1], w_shl<2>(b_and(x, b_set(0x0c))));
        w[4 * i + 2] = b_or(w[4 * i + 2], b_and(x, b_set(0x30)));
        w[4 * i + 3] = b_or(w[4 * i + 3], w_shr<2>(b_and(x, b_set((int)0xc0))));
      }
  }
}

template <Format F> static inline VI dot(VI acc, VI w, const int8_t* a) {
  if constexpr (F == Format::q8s) return i_dot8(acc, w, a);
  return i_dot(acc, w, a);
}

template <Format F, int M> static void gemm_tile(const uint8_t* p, const QAct& act, int token, float* out) {
  const size_t cell = act.cell(token);
  const int8_t* q = act.q + cell * kGroup;
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
          const int8_t* a = q + m * kGroup;
          VI x = i_zero(), y = i_zero();
          for (int j = 0; j < 4; j++) x = dot<F>(x, w[j], a + 4 * j);
          for (int j = 4; j < 8; j++) y = dot<F>(y, w[j], a + 4 * j);
          const VF dm = f_set(d[m]);
          VF t = f_fma(i_float(x), f_mul(s, dm), acc[h][m]);
          t = f_fma(i_float(y), f_mul(s2, dm), t);
          t = f_fnma(z, f_set(half[m]), t);
          acc[h][m] = f_fnma(z2, f_set(half[kBlockTokens + m]), t);
        }
      } else {
        const VF z = is_affine(F) ? f_load16(scales + 16 + h * kLanes) : f_mul(s, f_set(zero_of(F)));
#pragma GCC unroll 16
        for (int m = 0; m < M; m++) {
          const int8_t* a = q + m * kGroup;
          VI x = i_zero();
          for (int j = 0; j < 8; j++) x = dot<F>(x, w[j], a + 4 * j);
          VF t = f_fma(i_float(x), f_mul(s, f_set(d[m])), acc[h][m]);
          acc[h][m] = f_fnma(z, f_set(sum[m]), t);
        }
      }
    }
    p += bytes;
    q += kBlockTokens * kGroup;
    d += kBlockTokens;
    sum += kBlockTokens;
    half += 2 * kBlockTokens;
  }
  for (int m = 0; m < M; m++)
    for (int h = 0; h < NV; h++) f_store(out + m * kTileRows + h * kLanes, acc[h][m]);
}

template <Format F> static void gemm_count(const uint8_t* p, const QAct& a, int token, int count, float* out) {
  while (count > 0) {
    int m = count < kMaxTokens ? count : kMaxTokens;
    switch (m) {
      case 1: gemm_tile<F, 1>(p, a, token, out); break;
      case 2: gemm_tile<F, 2>(p, a, token, out); break;
      case 3: gemm_tile<F, kMaxTokens < 3 ? 1 : 3>(p, a, token, out); break;
      case 4: gemm_tile<F, kMaxTokens < 4 ? 1 : 4>(p, a, token, out); break;
      case 5: gemm_tile<F, kMaxTokens < 5 ? 1 : 5>(p, a, token, out); break;
      case 6: gemm_tile<F, kMaxTokens < 6 ? 1 : 6>(p, a, token, out); break;
      case 7: gemm_tile<F, kMaxTokens < 7 ? 1 : 7>(p, a, token, out); break;
      default: gemm_tile<F, kMaxTokens < 8 ? 1 : 8>(p, a, token, out); break;
    }
    token += m;
    count -= m;
    out += m * kTileRows;
  }
}

static void gemm(Format f, const uint8_t* p, const QAct& a, int token, int count, float* out) {
  switch (f) {
    case Format::q4a: return gemm_count<Format::q4a>(p, a, token, count, out);
    case Format::q4s: return gemm_count<Format::q4s>(p, a, token, count, out);
    case Format::q5a: return gemm_count<Format::q5a>(p, a, token, count, out);
    case Format::q5s: return gemm_count<Format::q5s>(p, a, token, count, out);
    case Format::q6s: return gemm_count<Format::q6s>(p, a, token, count, out);
    default: return gemm_count<Format::q8s>(p, a, token, count, out);
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
