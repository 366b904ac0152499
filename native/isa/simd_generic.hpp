// Plain C++ with GCC/Clang vector types: 4 lanes, any CPU. Included inside an ISA's own namespace.
#pragma once

constexpr int kLanes = 4;
constexpr int kMaxTokens = 2;
constexpr bool kShortSums = false;  // i_dot is as good as it gets
constexpr int kMaxRows = 2;
typedef float VF __attribute__((vector_size(16)));
typedef int32_t VI __attribute__((vector_size(16)));
typedef uint8_t VB __attribute__((vector_size(16)));
typedef uint16_t VW __attribute__((vector_size(16)));

static inline VF f_set(float x) { return VF{x, x, x, x}; }
static inline VF f_zero() { return f_set(0); }
static inline VF f_load(const float* p) {
  VF x;
  __builtin_memcpy(&x, p, 16);
  return x;
}
static inline void f_store(float* p, VF x) { __builtin_memcpy(p, &x, 16); }
static inline VF f_load16(const uint16_t* p) { return VF{half_to_float(p[0]), half_to_float(p[1]), half_to_float(p[2]), half_to_float(p[3])}; }
static inline VF f_loadbf(const uint16_t* p) {
  VI x{p[0] << 16, p[1] << 16, p[2] << 16, p[3] << 16};
  return (VF)x;
}
static inline void f_store16(uint16_t* p, VF x) {
  for (int i = 0; i < 4; i++) p[i] = float_to_half(x[i]);
}
static inline VF f_add(VF a, VF b) { return a + b; }
static inline VF f_sub(VF a, VF b) { return a - b; }
static inline VF f_mul(VF a, VF b) { return a * b; }
static inline VF f_div(VF a, VF b) { return a / b; }
static inline VF f_max(VF a, VF b) { return a > b ? a : b; }
static inline VF f_min(VF a, VF b) { return a < b ? a : b; }
static inline VF f_abs(VF a) { return (VF)((VI)a & 0x7fffffff); }
static inline VF f_fma(VF a, VF b, VF c) { return a * b + c; }
static inline VF f_fnma(VF a, VF b, VF c) { return c - a * b; }
static inline VI i_from(VF a) {
  VI r;
  for (int i = 0; i < 4; i++) r[i] = (int32_t)__builtin_lrintf(a[i]);
  return r;
}
static inline VF i_float(VI a) { return __builtin_convertvector(a, VF); }
static inline VF f_round(VF a) { return i_float(i_from(a)); }
static inline float f_hsum(VF a) { return (a[0] + a[2]) + (a[1] + a[3]); }
static inline float f_hmax(VF a) {
  float x = a[0] > a[1] ? a[0] : a[1], y = a[2] > a[3] ? a[2] : a[3];
  return x > y ? x : y;
}
static inline VF f_keep_ge(VF a, VF x, VF y) { return (VF)((VI)a & (x >= y)); }
static inline uint32_t f_mask_gt(VF x, VF y) {
  uint32_t m = 0;
  for (int i = 0; i < 4; i++) m |= (uint32_t)(x[i] > y[i]) << i;
  return m;
}
static inline VI i_zero() { return VI{0, 0, 0, 0}; }
static inline VI i_set(int x) { return VI{x, x, x, x}; }
static inline int i_hsum(VI a) { return a[0] + a[1] + a[2] + a[3]; }
static inline VI f_bits(VF a) { return (VI)a; }
static inline VI i_max(VI a, VI b) { return a > b ? a : b; }
static inline int i_hmax(VI a) {
  const int x = a[0] > a[1] ? a[0] : a[1], y = a[2] > a[3] ? a[2] : a[3];
  return x > y ? x : y;
}
static inline VF f_exp2i(VI n) { return (VF)((n + 127) << 23); }
static inline VI i_load(const void* p) {
  VI x;
  __builtin_memcpy(&x, p, 16);
  return x;
}
static inline VI i_add(VI a, VI b) { return a + b; }
template <int N> static inline VI i_shl(VI a) { return a << N; }
template <int N> static inline VI i_sar(VI a) { return a >> N; }
static inline VI i_sub(VI a, VI b) { return a - b; }
static inline VI b_and(VI a, VI b) { return a & b; }
static inline VI b_or(VI a, VI b) { return a | b; }
static inline VI b_set(int byte) {
  VB x;
  for (int i = 0; i < 16; i++) x[i] = (uint8_t)byte;
  return (VI)x;
}
template <int N> static inline VI w_shr(VI a) { return (VI)((VW)a >> N); }
template <int N> static inline VI w_shl(VI a) { return (VI)((VW)a << N); }
static inline VI b_plus16(VI a, const uint8_t* bits) {
  VB x = (VB)a;
  for (int i = 0; i < 16; i++) x[i] = (uint8_t)(x[i] + (((bits[i >> 3] >> (i & 7)) & 1) << 4));
  return (VI)x;
}
static inline VI i_dot(VI acc, VI w, const int8_t* a) {
  VB b = (VB)w;
  for (int i = 0; i < 4; i++) acc[i] += b[4 * i] * a[0] + b[4 * i + 1] * a[1] + b[4 * i + 2] * a[2] + b[4 * i + 3] * a[3];
  return acc;
}
static inline void i_store8(int8_t* p, VI a) {
  for (int i = 0; i < 4; i++) p[i] = (int8_t)(a[i] > 127 ? 127 : a[i] < -128 ? -128 : a[i]);
}
constexpr bool kPacksPairs = false;
template <int N> static inline void pack_pair(const VI (&)[N], int8_t*, int8_t*, int32_t (&)[4]);  // not used here
// Lanes of 64 bits. The lanes of 32 bits inside them are called even and odd.
typedef int64_t VL __attribute__((vector_size(16)));
static inline VI l_load(const uint8_t* p) {
  int16_t x[2];
  __builtin_memcpy(x, p, 4);
  return (VI)VL{x[0], x[1]};
}
static inline VI l_set(int x) { return (VI)VL{x, x}; }
static inline VI l_mul_even(VI a, VI b) {
  return (VI)VL{(int64_t)(int32_t)((VL)a)[0] * (int32_t)((VL)b)[0], (int64_t)(int32_t)((VL)a)[1] * (int32_t)((VL)b)[1]};
}
static inline VI l_odd(VI a) { return (VI)VL{((VL)a)[0] >> 32, ((VL)a)[1] >> 32}; }
static inline VI l_add(VI a, VI b) { return (VI)((VL)a + (VL)b); }
static inline VI l_sub(VI a, VI b) { return (VI)((VL)a - (VL)b); }
// 64-bit totals below 2^47 in magnitude as floats: the upper bits times 65536 plus the lowest 16, rounded once each
static inline VF l_float(VI even, VI odd) {
  const int64_t x[4] = {((VL)even)[0], ((VL)odd)[0], ((VL)even)[1], ((VL)odd)[1]};
  VF out;
  for (int i = 0; i < 4; i++) out[i] = (float)(int32_t)(x[i] >> 16) * 65536.0f + (float)(x[i] & 0xffff);
  return out;
}
static inline VI i_pairs(VI acc, VI w, const int16_t* p) {
  int16_t x[8];
  __builtin_memcpy(x, &w, 16);
  for (int i = 0; i < 4; i++) acc[i] += x[2 * i] * p[0] + x[2 * i + 1] * p[1];
  return acc;
}
static inline void prefetch(const void* p) { __builtin_prefetch(p); }
template <int Bits, int N> static inline VI i_dot_short(const VI*, const int8_t*);  // not used here
