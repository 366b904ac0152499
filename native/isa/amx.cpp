// AVX-512 with AMX: matrices times five or more tokens go through the tile unit, the rest is the AVX-512 code.
//
// A tile multiplication takes 16 tokens x 32 columns (their layout in QAct, as it lies) by 32 columns x 16 rows (the
// packed layout of 8-bit weights, as it lies; narrower ones are widened into a buffer first). The integers are exact,
// and the float operations for one token are those of gemm.inl in the same order: the results are bit for bit the same.
// Source of the instructions: Intel Architecture Instruction Set Extensions Programming Reference, chapter 3.
#include <immintrin.h>

#include "core/half.hpp"
#include "core/kernels.hpp"

namespace befit::amx {
#include "isa/simd_avx512.hpp"
#include "isa/expand.inl"

constexpr int kFewest = 5;  // with fewer tokens a tile is mostly empty and AVX-512 is faster

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t column_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tiles 0, 1: tokens (high and low bytes) by 32 columns; 2: 32 columns of weights; 3: 16 columns of weights;
// 4, 5: products; 6, 7: tokens by 16 columns. The numbers are parts of the instructions, so they must be literals.
static void configure() {
  static thread_local bool done = false;
  if (done) return;
  TileConfig c;
  for (int t = 0; t < 8; t++) {
    c.rows[t] = t == 2 ? 8 : t == 3 ? 4 : 16;
    c.column_bytes[t] = t < 2 ? 32 : t > 5 ? 16 : 64;
  }
  _tile_loadconfig(&c);
  done = true;
}

struct alignas(64) Products {
  int32_t high[kBlockTokens][16], low[kBlockTokens][16];
};

// 16 tokens times 32 columns of weights at w.
template <bool Wide> static inline void multiply_group(const uint8_t* w, const int8_t* high, const int8_t* low, Products& out) {
  _tile_loadd(0, high, kGroup);
  _tile_loadd(2, w, 64);
  _tile_zero(4);
  _tile_dpbsud(4, 0, 2);
  if constexpr (Wide) {
    _tile_loadd(1, low, kGroup);
    _tile_zero(5);
    _tile_dpbsud(5, 1, 2);
    _tile_stored(5, out.low, 64);
  }
  _tile_stored(4, out.high, 64);
}

// The same for 16 columns.
template <bool Wide> static inline void multiply_half(const uint8_t* w, const int8_t* high, const int8_t* low, Products& out) {
  _tile_loadd(6, high, kGroup);
  _tile_loadd(3, w, 64);
  _tile_zero(4);
  _tile_dpbsud(4, 6, 3);
  if constexpr (Wide) {
    _tile_loadd(7, low, kGroup);
    _tile_zero(5);
    _tile_dpbsud(5, 7, 3);
    _tile_stored(5, out.low, 64);
  }
  _tile_stored(4, out.high, 64);
}

template <bool Wide> static inline VF product(const Products& p, int m) {
  VI x = i_load(p.high[m]);
  if constexpr (Wide) x = i_add(i_shl<8>(x), i_load(p.low[m]));
  return i_float(x);
}

template <Format F, bool Wide, int M> static void gemm_tile(const uint8_t* p, const QAct& act, int token, int count, float* out) {
  constexpr bool halves = F == Format::q6s;
  constexpr int ints = integer_bytes(F), bytes = group_bytes(F), step = kBlockTokens * kGroup;
  const size_t cell = act.cell(token);
  const int8_t *high = act.high + cell * kGroup, *low = Wide ? act.low + cell * kGroup : high;
  alignas(64) uint8_t wide[2][512];
  Products products[2][halves ? 2 : 1];  // of two groups: one is multiplied while the other is summed
  const auto start = [&](int g) {
    const uint8_t* w = p + (size_t)g * bytes;
    if constexpr (F != Format::q8s) {
      VI x[8];
      expand<F>(w, 0, x);
      for (int j = 0; j < 8; j++) _mm512_store_si512(wide[g & 1] + 64 * j, x[j]);
      w = wide[g & 1];
    }
    const int8_t *a = high + (size_t)g * step, *b = low + (size_t)g * step;
    if constexpr (halves) {
      multiply_half<Wide>(w, a, b, products[g & 1][0]);
      multiply_half<Wide>(w + 256, a + 16, b + 16, products[g & 1][1]);
    } else {
      multiply_group<Wide>(w, a, b, products[g & 1][0]);
    }
  };
  VF acc[M];
  for (int m = 0; m < M; m++) acc[m] = f_zero();
  start(0);
  for (int g = 0; g < act.groups; g++) {
    if (g + 1 < act.groups) start(g + 1);
    const uint16_t* scales = (const uint16_t*)(p + (size_t)g * bytes + ints);
    const Products* x = products[g & 1];
    const float *d = act.d + cell + g * kBlockTokens, *sum = act.sum + cell + g * kBlockTokens;
    const VF s = f_load16(scales);
    if constexpr (halves) {
      const float* half = act.half + 2 * (cell + g * kBlockTokens);
      const VF s2 = f_load16(scales + 16);
      const VF z = f_mul(s, f_set(zero_of(F))), z2 = f_mul(s2, f_set(zero_of(F)));
#pragma GCC unroll 16
      for (int m = 0; m < M; m++) {
        const VF dm = f_set(d[m]);
        VF t = f_fma(product<Wide>(x[0], m), f_mul(s, dm), acc[m]);
        t = f_fma(product<Wide>(x[1], m), f_mul(s2, dm), t);
        t = f_fnma(z, f_set(half[m]), t);
        acc[m] = f_fnma(z2, f_set(half[kBlockTokens + m]), t);
      }
    } else {
      const VF z = is_affine(F) ? f_load16(scales + 16) : f_mul(s, f_set(zero_of(F)));
#pragma GCC unroll 16
      for (int m = 0; m < M; m++) {
        const VF t = f_fma(product<Wide>(x[0], m), f_mul(s, f_set(d[m])), acc[m]);
        acc[m] = f_fnma(z, f_set(sum[m]), t);
      }
    }
  }
  for (int m = 0; m < count; m++) f_store(out + m * kTileRows, acc[m]);
}

template <Format F, bool Wide> static void gemm_width(const uint8_t* p, const QAct& a, int token, int count, float* out) {
  if (count <= 8) gemm_tile<F, Wide, 8>(p, a, token, count, out);
  else gemm_tile<F, Wide, 16>(p, a, token, count, out);
}

template <Format F> static void gemm_count(const uint8_t* p, const QAct& a, int token, int count, float* out) {
  configure();
  if (a.low) gemm_width<F, true>(p, a, token, count, out);
  else gemm_width<F, false>(p, a, token, count, out);
}

static void gemm(Format f, const uint8_t* p, const QAct& a, int token, int count, float* out) {
  if (count < kFewest || token % kBlockTokens) return kernels_avx512()->gemm(f, p, a, token, count, out);
  switch (f) {
    case Format::q4a: return gemm_count<Format::q4a>(p, a, token, count, out);
    case Format::q4s: return gemm_count<Format::q4s>(p, a, token, count, out);
    case Format::q5a: return gemm_count<Format::q5a>(p, a, token, count, out);
    case Format::q5s: return gemm_count<Format::q5s>(p, a, token, count, out);
    case Format::q6s: return gemm_count<Format::q6s>(p, a, token, count, out);
    default: return gemm_count<Format::q8s>(p, a, token, count, out);
  }
}

}  // namespace befit::amx

const befit::Kernels* befit::kernels_amx() {
  static Kernels table;
  table = *kernels_avx512();
  table.isa = "amx";
  table.gemm = amx::gemm;
  return &table;
}
