// AVX2 with FMA and F16C: 8 lanes, 16 registers. Included inside an ISA's own namespace.
#pragma once


constexpr int kLanes = 8;
constexpr int kMaxTokens = 4;
constexpr int kMaxRows = 4;
using VF = __m256;
using VI = __m256i;

static inline VF f_zero() { return _mm256_setzero_ps(); }
static inline VF f_set(float x) { return _mm256_set1_ps(x); }
static inline VF f_load(const float* p) { return _mm256_loadu_ps(p); }
static inline void f_store(float* p, VF x) { _mm256_storeu_ps(p, x); }
static inline VF f_load16(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
static inline VF f_loadbf(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
static inline void f_store16(uint16_t* p, VF x) {
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline VF f_add(VF a, VF b) { return _mm256_add_ps(a, b); }
static inline VF f_sub(VF a, VF b) { return _mm256_sub_ps(a, b); }
static inline VF f_mul(VF a, VF b) { return _mm256_mul_ps(a, b); }
static inline VF f_div(VF a, VF b) { return _mm256_div_ps(a, b); }
static inline VF f_max(VF a, VF b) { return _mm256_max_ps(a, b); }
static inline VF f_min(VF a, VF b) { return _mm256_min_ps(a, b); }
static inline VF f_abs(VF a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
static inline VF f_fma(VF a, VF b, VF c) { return _mm256_fmadd_ps(a, b, c); }
static inline VF f_fnma(VF a, VF b, VF c) { return _mm256_fnmadd_ps(a, b, c); }
static inline VF f_round(VF a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline float f_hsum(VF a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
static inline float f_hmax(VF a) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
static inline VF f_keep_ge(VF a, VF x, VF y) { return _mm256_and_ps(a, _mm256_cmp_ps(x, y, _CMP_GE_OQ)); }
static inline uint32_t f_mask_gt(VF x, VF y) { return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(x, y, _CMP_GT_OQ)); }
static inline VI i_zero() { return _mm256_setzero_si256(); }
static inline VI i_set(int x) { return _mm256_set1_epi32(x); }
static inline VI i_from(VF a) { return _mm256_cvtps_epi32(a); }
static inline VF i_float(VI a) { return _mm256_cvtepi32_ps(a); }
static inline int i_hsum(VI a) {
  __m128i x = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}
static inline VI f_bits(VF a) { return _mm256_castps_si256(a); }
static inline VI i_max(VI a, VI b) { return _mm256_max_epi32(a, b); }
static inline int i_hmax(VI a) {
  __m128i x = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  x = _mm_max_epi32(x, _mm_shuffle_epi32(x, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}
static inline VF f_exp2i(VI n) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23)); }
static inline VI i_load(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }
static inline VI i_add(VI a, VI b) { return _mm256_add_epi32(a, b); }
template <int N> static inline VI i_shl(VI a) { return _mm256_slli_epi32(a, N); }
template <int N> static inline VI i_sar(VI a) { return _mm256_srai_epi32(a, N); }
static inline VI i_sub(VI a, VI b) { return _mm256_sub_epi32(a, b); }
static inline VI b_and(VI a, VI b) { return _mm256_and_si256(a, b); }
static inline VI b_or(VI a, VI b) { return _mm256_or_si256(a, b); }
static inline VI b_set(int byte) { return _mm256_set1_epi8((char)byte); }
template <int N> static inline VI w_shr(VI a) { return _mm256_srli_epi16(a, N); }
template <int N> static inline VI w_shl(VI a) { return _mm256_slli_epi16(a, N); }
static inline VI b_plus16(VI a, const uint8_t* bits) {
  int32_t x;
  __builtin_memcpy(&x, bits, 4);
  const VI spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
  const VI bit = _mm256_set1_epi64x((long long)0x8040201008040201ULL);
  VI b = _mm256_shuffle_epi8(_mm256_set1_epi32(x), spread);
  VI set = _mm256_cmpeq_epi8(_mm256_and_si256(b, bit), bit);
  return _mm256_or_si256(a, _mm256_and_si256(set, _mm256_set1_epi8(16)));
}
static inline VI bcast4(const int8_t* a) {
  int32_t x;
  __builtin_memcpy(&x, a, 4);
  return _mm256_set1_epi32(x);
}
// Sum over N vectors of weights of at most 6 bits. Sums of two products fit 16 bits, and so do several of them: 8 at
// 4 bits (8 x 2 x 15 x 128), 4 at 5 bits, 2 at 6 bits. Only then are they widened.
constexpr bool kShortSums = true;
template <int Bits, int N> static inline VI i_dot_short(const VI* w, const int8_t* a) {
  constexpr int fit = Bits == 4 ? 8 : Bits == 5 ? 4 : 2, step = fit < N ? fit : N;
  VI total = i_zero();
  for (int j = 0; j < N; j += step) {
    VI s = _mm256_maddubs_epi16(w[j], bcast4(a + 4 * j));
    for (int i = 1; i < step; i++) s = _mm256_add_epi16(s, _mm256_maddubs_epi16(w[j + i], bcast4(a + 4 * (j + i))));
    total = _mm256_add_epi32(total, _mm256_madd_epi16(s, _mm256_set1_epi16(1)));
  }
  return total;
}
// weights of 8 bits: even and odd bytes apart, so that no sum of two products can saturate
static inline VI i_dot(VI acc, VI w, const int8_t* a) {
  const VI ones = _mm256_set1_epi16(1), low = _mm256_set1_epi16(0x00ff);
  VI x = bcast4(a);
  VI even = _mm256_maddubs_epi16(_mm256_and_si256(w, low), x);
  VI odd = _mm256_maddubs_epi16(_mm256_andnot_si256(low, w), x);
  acc = _mm256_add_epi32(acc, _mm256_madd_epi16(even, ones));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(odd, ones));
}
static inline void i_store8(int8_t* p, VI a) {
  __m128i x = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  _mm_storel_epi64((__m128i*)p, _mm_packs_epi16(x, x));
}
constexpr bool kPacksPairs = false;
template <int N> static inline void pack_pair(const VI (&)[N], int8_t*, int8_t*, int32_t (&)[4]);  // not used here
// Lanes of 64 bits. The lanes of 32 bits inside them are called even and odd.
static inline VI l_load(const uint8_t* p) { return _mm256_cvtepi16_epi64(_mm_loadl_epi64((const __m128i*)p)); }
static inline VI l_set(int x) { return _mm256_set1_epi64x(x); }
static inline VI l_mul_even(VI a, VI b) { return _mm256_mul_epi32(a, b); }
static inline VI l_odd(VI a) { return _mm256_srli_epi64(a, 32); }
static inline VI l_add(VI a, VI b) { return _mm256_add_epi64(a, b); }
static inline VI l_sub(VI a, VI b) { return _mm256_sub_epi64(a, b); }
// 64-bit totals below 2^47 in magnitude as floats: the upper bits times 65536 plus the lowest 16, rounded once each
static inline VF l_float(VI even, VI odd) {
  const VI high = _mm256_blend_epi32(_mm256_srli_epi64(even, 16), _mm256_slli_epi64(odd, 16), 0xaa);
  const VI low = b_and(_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa), i_set(0xffff));
  return f_fma(i_float(high), f_set(65536.0f), i_float(low));
}
static inline VI i_pairs(VI acc, VI w, const int16_t* p) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(w, bcast4((const int8_t*)p)));
}
static inline void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }
