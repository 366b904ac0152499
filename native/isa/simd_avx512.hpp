// AVX-512 (F, BW, VL, DQ, VNNI): 16 lanes, 32 registers. Included inside an ISA's own namespace.
#pragma once


constexpr int kLanes = 16;
constexpr int kMaxTokens = 8;   // tokens one GEMM call interleaves
constexpr bool kShortSums = false;  // i_dot is as good as it gets
constexpr int kMaxRows = 8;     // query rows one attention call interleaves
using VF = __m512;
using VI = __m512i;

static inline VF f_zero() { return _mm512_setzero_ps(); }
static inline VF f_set(float x) { return _mm512_set1_ps(x); }
static inline VF f_load(const float* p) { return _mm512_loadu_ps(p); }
static inline void f_store(float* p, VF x) { _mm512_storeu_ps(p, x); }
static inline VF f_load16(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
static inline VF f_loadbf(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
static inline void f_store16(uint16_t* p, VF x) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline VF f_add(VF a, VF b) { return _mm512_add_ps(a, b); }
static inline VF f_sub(VF a, VF b) { return _mm512_sub_ps(a, b); }
static inline VF f_mul(VF a, VF b) { return _mm512_mul_ps(a, b); }
static inline VF f_div(VF a, VF b) { return _mm512_div_ps(a, b); }
static inline VF f_max(VF a, VF b) { return _mm512_max_ps(a, b); }
static inline VF f_min(VF a, VF b) { return _mm512_min_ps(a, b); }
static inline VF f_abs(VF a) { return _mm512_abs_ps(a); }
static inline VF f_fma(VF a, VF b, VF c) { return _mm512_fmadd_ps(a, b, c); }
static inline VF f_fnma(VF a, VF b, VF c) { return _mm512_fnmadd_ps(a, b, c); }
static inline VF f_round(VF a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline float f_hsum(VF a) { return _mm512_reduce_add_ps(a); }
static inline float f_hmax(VF a) { return _mm512_reduce_max_ps(a); }
// a where x >= y, else 0
static inline VF f_keep_ge(VF a, VF x, VF y) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, y, _CMP_GE_OQ), a); }
// bit i: lane i of x is above y
static inline uint32_t f_mask_gt(VF x, VF y) { return _mm512_cmp_ps_mask(x, y, _CMP_GT_OQ); }
static inline VI i_zero() { return _mm512_setzero_si512(); }
static inline VI i_set(int x) { return _mm512_set1_epi32(x); }
static inline VI i_from(VF a) { return _mm512_cvtps_epi32(a); }
static inline VF i_float(VI a) { return _mm512_cvtepi32_ps(a); }
static inline int i_hsum(VI a) { return _mm512_reduce_add_epi32(a); }
static inline VI f_bits(VF a) { return _mm512_castps_si512(a); }
static inline VI i_max(VI a, VI b) { return _mm512_max_epi32(a, b); }
static inline int i_hmax(VI a) { return _mm512_reduce_max_epi32(a); }
static inline VF f_exp2i(VI n) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23)); }
static inline VI i_load(const void* p) { return _mm512_loadu_si512(p); }
static inline VI i_add(VI a, VI b) { return _mm512_add_epi32(a, b); }
template <int N> static inline VI i_shl(VI a) { return _mm512_slli_epi32(a, N); }
template <int N> static inline VI i_sar(VI a) { return _mm512_srai_epi32(a, N); }
static inline VI i_sub(VI a, VI b) { return _mm512_sub_epi32(a, b); }
static inline VI b_and(VI a, VI b) { return _mm512_and_si512(a, b); }
static inline VI b_or(VI a, VI b) { return _mm512_or_si512(a, b); }
static inline VI b_set(int byte) { return _mm512_set1_epi8((char)byte); }
template <int N> static inline VI w_shr(VI a) { return _mm512_srli_epi16(a, N); }
template <int N> static inline VI w_shl(VI a) { return _mm512_slli_epi16(a, N); }
// adds 16 to the bytes whose bit is set: `bits` are 8 bytes for 64 byte lanes
static inline VI b_plus16(VI a, const uint8_t* bits) {
  __mmask64 m;
  __builtin_memcpy(&m, bits, 8);
  return _mm512_mask_add_epi8(a, m, a, _mm512_set1_epi8(16));
}
// lane += sum of 4 products of unsigned weight bytes and 4 signed activation bytes (the same 4 for every lane)
static inline VI i_dot(VI acc, VI w, const int8_t* a) {
  int32_t x;
  __builtin_memcpy(&x, a, 4);
  return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(x));
}
static inline void i_store8(int8_t* p, VI a) { _mm_storeu_si128((__m128i*)p, _mm512_cvtsepi32_epi8(a)); }
// Bytes of 64 integers, in order, and the sums of each 16 of them.
constexpr bool kPacksPairs = true;
static inline void pack_pair(const VI (&v)[4], int8_t* high, int8_t* low, int32_t (&sums)[4]) {
  const VI round = i_set(128), order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), ones = b_set(1);
  VI h[4], l[4];
  for (int i = 0; i < 4; i++) {
    h[i] = i_sar<8>(i_add(v[i], round));
    l[i] = i_sub(v[i], i_shl<8>(h[i]));
  }
  const auto join = [&](const VI (&x)[4]) {
    return _mm512_permutexvar_epi32(order, _mm512_packs_epi16(_mm512_packs_epi32(x[0], x[1]), _mm512_packs_epi32(x[2], x[3])));
  };
  const VI upper = join(h), lower = join(l);
  _mm512_storeu_si512(high, upper);
  _mm512_storeu_si512(low, lower);
  VI s = _mm512_dpbusd_epi32(i_shl<8>(_mm512_dpbusd_epi32(i_zero(), ones, upper)), ones, lower);
  s = i_add(s, _mm512_shuffle_epi32(s, _MM_PERM_BADC));
  s = i_add(s, _mm512_shuffle_epi32(s, _MM_PERM_CDAB));
  const VI firsts = _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12), s);
  _mm_storeu_si128((__m128i*)sums, _mm512_castsi512_si128(firsts));
}
// Lanes of 64 bits. The lanes of 32 bits inside them are called even and odd.
static inline VI l_load(const uint8_t* p) { return _mm512_cvtepi16_epi64(_mm_loadu_si128((const __m128i*)p)); }
static inline VI l_set(int x) { return _mm512_set1_epi64(x); }
static inline VI l_mul_even(VI a, VI b) { return _mm512_mul_epi32(a, b); }
static inline VI l_odd(VI a) { return _mm512_srli_epi64(a, 32); }
static inline VI l_add(VI a, VI b) { return _mm512_add_epi64(a, b); }
static inline VI l_sub(VI a, VI b) { return _mm512_sub_epi64(a, b); }
// 64-bit totals below 2^47 in magnitude as floats: the upper bits times 65536 plus the lowest 16, rounded once each
static inline VF l_float(VI even, VI odd) {
  const VI high = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 16), _mm512_slli_epi64(odd, 16));
  const VI low = b_and(_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32)), i_set(0xffff));
  return f_fma(i_float(high), f_set(65536.0f), i_float(low));
}
// lane += products of its two int16 with the two at p
static inline VI i_pairs(VI acc, VI w, const int16_t* p) {
  int32_t x;
  __builtin_memcpy(&x, p, 4);
  return _mm512_dpwssd_epi32(acc, w, _mm512_set1_epi32(x));
}
static inline void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }
template <int Bits, int N> static inline VI i_dot_short(const VI*, const int8_t*);  // not used here
