// AVX-512 with AMX: kFewest tokens or more go through the tile unit, in tiles of 16 or 8 tokens; fewer go through the
// AVX-512 code, which gives the same bits.
//
// A tile multiplication takes 16 tokens x 64 bytes by 64 bytes x 16 rows and adds to 16 x 16 integers of 32 bits.
// Source of the instructions: Intel Architecture Instruction Set Extensions Programming Reference, chapter 3.
#include <immintrin.h>

#include "core/half.hpp"
#include "core/kernels.hpp"

namespace befit::amx {
#include "isa/simd_avx512.hpp"
#include "isa/expand.inl"

constexpr int kFewest = 5;  // with fewer tokens a tile is mostly empty and AVX-512 is as fast
constexpr int kSmall = 8;   // tokens of a small tile

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t column_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tile 0: tokens, 1 and 7: weights of a multiplication by so many bytes; 2 to 6: sums, or tokens by 64 bytes; 7 is sums too
// where there are 16 tokens and 64 bytes. The numbers are parts of the instructions, so they must be literals.
static void configure(int tokens, int bytes) {
  static thread_local int now = 0;
  if (now == tokens * 64 + bytes) return;
  TileConfig c;
  for (int t = 0; t < 8; t++) {
    c.rows[t] = (uint8_t)(t == 1 || t == 7 ? bytes / 4 : tokens);
    c.column_bytes[t] = (uint16_t)(t == 0 ? bytes : 64);
  }
  // Not the intrinsic: gcc 12 believes that it reads eight bytes only, and may leave the rest of c unwritten.
  asm volatile("ldtilecfg %0" : : "m"(c));
  now = tokens * 64 + bytes;
}

#include "isa/amx_bytes.inl"
#include "isa/amx_steps.inl"

static void gemm(Format f, const uint8_t* p, int tiles, const QAct& a, int token, int count, float* out, size_t stride) {
  if (count < kFewest) return kernels_avx512()->gemm(f, p, tiles, a, token, count, out, stride);
  switch (f) {
    case Format::q4a: return steps_gemm<Format::q4a>(p, tiles, a, token, count, out, stride);
    case Format::q4s: return steps_gemm<Format::q4s>(p, tiles, a, token, count, out, stride);
    case Format::q5a: return steps_gemm<Format::q5a>(p, tiles, a, token, count, out, stride);
    case Format::q5s: return steps_gemm<Format::q5s>(p, tiles, a, token, count, out, stride);
    case Format::q6s: return steps_gemm<Format::q6s>(p, tiles, a, token, count, out, stride);
    default: return bytes_gemm(p, tiles, a, token, count, out, stride);
  }
}

}  // namespace befit::amx

const befit::Kernels* befit::kernels_amx() {
  static const Kernels table = [] {
    Kernels k = *kernels_avx512();
    k.isa = "amx";
    k.gemm = amx::gemm;
    return k;
  }();
  return &table;
}
