// Matrix kernels over packed tiles. Sums of integers are exact, and the order of float operations for one token never
// depends on how many tokens share the call: a request's numbers do not change with its company in the batch.

// Products of N vectors of weights, from w, with the activations of T tokens at the same columns, added to what
// `out` holds. Several chains run side by side because one chain alone would wait for the multiplier's latency.
template <Format F, int N, int T> static inline void dot(const VI* w, const int8_t* a, VI (&out)[T]) {
  constexpr int row = QAct::kPair, low = QAct::kPlane;
  if constexpr (kShortSums && F != Format::q8s) {
    for (int t = 0; t < T; t++) {
      const VI high = i_dot_short<bits_of(F), N>(w, a + t * row);
      out[t] = i_add(out[t], i_add(i_shl<8>(high), i_dot_short<bits_of(F), N>(w, a + t * row + low)));
    }
    return;
  }
  constexpr int C = N == 4 ? 1 : T <= 2 ? 2 : 1;
  VI x[2][T][C];
  for (int t = 0; t < T; t++)
    for (int c = 0; c < C; c++) {
      x[0][t][c] = i_zero();
      x[1][t][c] = c ? i_zero() : out[t];
    }
#pragma GCC unroll 8
  for (int j = 0; j < N; j++)
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
      x[0][t][j % C] = i_dot(x[0][t][j % C], w[j], a + t * row + 4 * j);
      x[1][t][j % C] = i_dot(x[1][t][j % C], w[j], a + t * row + low + 4 * j);
    }
#pragma GCC unroll 4
  for (int t = 0; t < T; t++) {
    for (int l = 0; l < 2; l++)
      for (int c = 1; c < C; c++) x[l][t][0] = i_add(x[l][t][0], x[l][t][c]);
    out[t] = i_add(i_shl<8>(x[0][t][0]), x[1][t][0]);
  }
}

// The same for one token and weights of 4 bits, as they lie. The upper nibbles stay where they are, as 16 q: for a single
// token it is cheaper to shift their sum.
static inline VI dot_one(const uint8_t* p, int h, const int8_t* a, VI first) {
  constexpr int low_bytes = QAct::kPlane;
  const VI low = b_set(15), high = b_set(-16);
  VI x = i_zero(), y = i_zero(), xl = first, yl = i_zero();
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) {
    const VI w = i_load(p + 64 * j + h * kLanes * 4), u = b_and(w, low), v = b_and(w, high);
    x = i_dot(x, u, a + 4 * j);
    y = i_dot(y, v, a + 16 + 4 * j);
    xl = i_dot(xl, u, a + low_bytes + 4 * j);
    yl = i_dot(yl, v, a + low_bytes + 16 + 4 * j);
  }
  return i_add(i_add(i_shl<8>(x), xl), i_add(i_shl<4>(y), i_sar<4>(yl)));
}

constexpr int side_by_side(int tokens) { return tokens % 4 == 0 ? 4 : tokens % 2 == 0 ? 2 : tokens == 1 ? 1 : 3; }

// Sums of products with the offsets of an affine tile. 16 pairs at a time: more would not fit 32 bits.
template <int M> static inline void subtract_offsets(const uint8_t* offsets, const QAct& act, int token, VI (&even)[NV][M], VI (&odd)[NV][M]) {
  const int16_t* parts = act.parts_of(token);
  const int pairs = act.pairs();
  for (int from = 0; from < pairs; from += 16) {
    const int to = from + 16 < pairs ? from + 16 : pairs;
#pragma GCC unroll 4
    for (int h = 0; h < NV; h++)
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) {
        VI high = i_zero(), low = i_zero();
        for (int pair = from; pair < to; pair++) {
          const VI w = i_load(offsets + 64 * pair + h * kLanes * 4);
          const int16_t* x = parts + (pair * 2 * kBlockTokens + m) * 2;
          high = i_pairs(high, w, x);
          low = i_pairs(low, w, x + 2 * kBlockTokens);
        }
        even[h][m] = l_sub(even[h][m], l_add(l_mul_even(high, l_set(2048)), l_mul_even(low, l_set(1))));
        odd[h][m] = l_sub(odd[h][m], l_add(l_mul_even(l_odd(high), l_set(2048)), l_mul_even(l_odd(low), l_set(1))));
      }
  }
}

// Weights of up to 6 bits: exact sums of integers.
template <Format F, int M> static void steps_tile(const uint8_t* p, const QAct& act, int token, float* out, size_t stride) {
  constexpr int ints = integer_bytes(F), bytes = group_bytes(F), T = side_by_side(M);
  const uint8_t* const tile = p;
  const int32_t* sums = act.sums_of(token);
  VI even[NV][M], odd[NV][M];
  for (int h = 0; h < NV; h++)
    for (int m = 0; m < M; m++) even[h][m] = odd[h][m] = i_zero();
  for (int g = 0; g < act.groups; g++, p += bytes, sums += 2 * kBlockTokens) {
    for (int b = 0; b < bytes; b += 64) prefetch(p + 2048 + b);
    const int8_t* q = act.bytes(token) + g / 2 * QAct::kBytes + g % 2 * kGroup;
#pragma GCC unroll 4
    for (int h = 0; h < NV; h++) {
      constexpr bool one = M == 1 && bits_of(F) == 4 && !kShortSums;
      VI w[8];
      if constexpr (!one) expand<F>(p, h, w);
#pragma GCC unroll 2
      for (int part = 0; part < (F == Format::q6s ? 2 : 1); part++) {
        const uint8_t* steps = p + ints + 32 * part + h * kLanes;
        const VI step_even = l_load(steps), step_odd = l_load(steps + 16);
#pragma GCC unroll 4
        for (int m0 = 0; m0 < M; m0 += T) {
          VI x[T];
          for (int t = 0; t < T; t++) {
            const int m = m0 + t, sum = F == Format::q6s ? sums[part * kBlockTokens + m] : sums[m] + sums[kBlockTokens + m];
            x[t] = is_affine(F) ? i_zero() : i_set(-zero_of(F) * sum);
          }
          const int8_t* a = q + m0 * QAct::kPair;
          if constexpr (one) x[0] = dot_one(p, h, a, x[0]);
          else if constexpr (F == Format::q6s) dot<F, 4, T>(w + 4 * part, a + 16 * part, x);
          else dot<F, 8, T>(w, a, x);
#pragma GCC unroll 4
          for (int t = 0; t < T; t++) {
            even[h][m0 + t] = l_add(even[h][m0 + t], l_mul_even(x[t], step_even));
            odd[h][m0 + t] = l_add(odd[h][m0 + t], l_mul_even(l_odd(x[t]), step_odd));
          }
        }
      }
    }
  }
  if constexpr (is_affine(F)) subtract_offsets<M>(p, act, token, even, odd);
  const float* units = (const float*)(tile + quantized_tile_bytes(F, act.groups * kGroup)) - kTileRows;
  for (int m = 0; m < M; m++)
    for (int h = 0; h < NV; h++) {
      const VF x = f_mul(l_float(even[h][m], odd[h][m]), f_load(units + h * kLanes));
      f_store(out + m * stride + h * kLanes, f_mul(x, f_set(act.d[token + m])));
    }
}

// Weights of 8 bits: exact sums in each group, added as floats.
template <int M> static void bytes_tile(const uint8_t* p, const QAct& act, int token, float* out, size_t stride) {
  constexpr Format F = Format::q8s;
  constexpr int T = side_by_side(M);
  const int32_t* sums = act.sums_of(token);
  VF acc[NV][M];
  for (int h = 0; h < NV; h++)
    for (int m = 0; m < M; m++) acc[h][m] = f_zero();
  for (int g = 0; g < act.groups; g++, p += group_bytes(F), sums += 2 * kBlockTokens) {
    for (int b = 0; b < group_bytes(F); b += 64) prefetch(p + 2048 + b);
    const int8_t* q = act.bytes(token) + g / 2 * QAct::kBytes + g % 2 * kGroup;
#pragma GCC unroll 4
    for (int h = 0; h < NV; h++) {
      VI w[8];
      expand<F>(p, h, w);
      const VF s = f_load16((const uint16_t*)(p + integer_bytes(F)) + h * kLanes);
#pragma GCC unroll 4
      for (int m0 = 0; m0 < M; m0 += T) {
        VI x[T];
        for (int t = 0; t < T; t++) x[t] = i_set(-zero_of(F) * (sums[m0 + t] + sums[kBlockTokens + m0 + t]));
        dot<F, 8, T>(w, q + m0 * QAct::kPair, x);
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) acc[h][m0 + t] = f_fma(i_float(x[t]), s, acc[h][m0 + t]);
      }
    }
  }
  for (int m = 0; m < M; m++)
    for (int h = 0; h < NV; h++) f_store(out + m * stride + h * kLanes, f_mul(acc[h][m], f_set(act.d[token + m])));
}

template <Format F, int M> static void gemm_tile(const uint8_t* p, const QAct& act, int token, float* out, size_t stride) {
  if constexpr (has_steps(F)) steps_tile<F, M>(p, act, token, out, stride);
  else bytes_tile<M>(p, act, token, out, stride);
}

template <Format F> static void gemm_count(const uint8_t* p, const QAct& a, int token, int count, float* out, size_t stride) {
  while (count > 0) {
    int m = count < kMaxTokens ? count : kMaxTokens;  // divides a block, so a call never crosses one
    if (m == 5 || m == 7) m--;
    switch (m) {
      case 1: gemm_tile<F, 1>(p, a, token, out, stride); break;
      case 2: gemm_tile<F, 2>(p, a, token, out, stride); break;
      case 3: gemm_tile<F, kMaxTokens < 3 ? 1 : 3>(p, a, token, out, stride); break;
      case 4: gemm_tile<F, kMaxTokens < 4 ? 1 : 4>(p, a, token, out, stride); break;
      case 6: gemm_tile<F, kMaxTokens < 6 ? 1 : 6>(p, a, token, out, stride); break;
      default: gemm_tile<F, kMaxTokens < 8 ? 1 : 8>(p, a, token, out, stride); break;
    }
    token += m;
    count -= m;
    out += m * stride;
  }
}

template <Format F> static void gemm_tiles(const uint8_t* p, int tiles, const QAct& a, int token, int count, float* out, size_t stride) {
  const size_t bytes = quantized_tile_bytes(F, a.groups * kGroup);
  for (int i = 0; i < tiles; i++) gemm_count<F>(p + i * bytes, a, token, count, out + i * kTileRows, stride);
}

static void gemm(Format f, const uint8_t* p, int tiles, const QAct& a, int token, int count, float* out, size_t stride) {
  switch (f) {
    case Format::q4a: return gemm_tiles<Format::q4a>(p, tiles, a, token, count, out, stride);
    case Format::q4s: return gemm_tiles<Format::q4s>(p, tiles, a, token, count, out, stride);
    case Format::q5a: return gemm_tiles<Format::q5a>(p, tiles, a, token, count, out, stride);
    case Format::q5s: return gemm_tiles<Format::q5s>(p, tiles, a, token, count, out, stride);
    case Format::q6s: return gemm_tiles<Format::q6s>(p, tiles, a, token, count, out, stride);
    default: return gemm_tiles<Format::q8s>(p, tiles, a, token, count, out, stride);
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

template <Format F>
static void dense_tiles(const uint8_t* p, int tiles, int columns, const float* x, size_t x_stride, int count, float* out, size_t stride) {
  const size_t bytes = (size_t)columns * kTileRows * element_bytes(F);
  for (int i = 0; i < tiles; i++) dense_count<F>(p + i * bytes, columns, x, x_stride, count, out + i * kTileRows, stride);
}

static void gemm_dense(Format f, const uint8_t* p, int tiles, int columns, const float* x, size_t x_stride, int count, float* out, size_t stride) {
  if (f == Format::f32) return dense_tiles<Format::f32>(p, tiles, columns, x, x_stride, count, out, stride);
  if (f == Format::f16) return dense_tiles<Format::f16>(p, tiles, columns, x, x_stride, count, out, stride);
  return dense_tiles<Format::bf16>(p, tiles, columns, x, x_stride, count, out, stride);
}
