// Loops that do nothing but read, or nothing but multiply and add, with the widest instructions of each instruction set.
// Functions here are compiled for an instruction set of their own and must be called only where the CPU has it.
#include <cstdint>

#include "core/probe.hpp"

#if defined(BEFIT_X86)
#include <immintrin.h>
#endif

namespace befit {
namespace {

volatile int32_t sink;  // keeps the results of the loops alive

// -- plain C++: a dot product of arrays in the first-level cache, as the compiler makes it ------------------------------

constexpr int kLength = 4096;

long generic_integers(long turns) {
  alignas(64) static int8_t a[kLength], b[kLength];
  for (int i = 0; i < kLength; i++) a[i] = (int8_t)i, b[i] = (int8_t)(i + sink);
  int32_t sum = 0;
  for (long t = 0; t < turns; t += kLength / 64) {
    for (int i = 0; i < kLength; i++) sum += (int32_t)a[i] * b[i];
    a[t % kLength] = (int8_t)sum;
  }
  sink = sum;
  return 64;
}

long generic_floats(long turns) {
  float acc[64] = {}, x = 1.0f + 1e-9f * (float)sink, y = 1e-9f;
  for (long t = 0; t < turns; t++)
    for (int i = 0; i < 64; i++) acc[i] = acc[i] * x + y;
  float sum = 0;
  for (float a : acc) sum += a;
  sink = (int32_t)sum;
  return 64;
}

uint64_t generic_read(const uint8_t* data, size_t bytes) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i < bytes; i += 64)
    for (int j = 0; j < 8; j++) {
      uint64_t x;
      __builtin_memcpy(&x, data + i + 8 * j, 8);
      sums[j] += x;
    }
  uint64_t sum = 0;
  for (uint64_t s : sums) sum += s;
  return sum;
}

#if defined(BEFIT_X86)

constexpr size_t kAhead = 2048;  // bytes fetched ahead: the processor's own prefetcher stops at the ends of pages

// -- AVX2 ---------------------------------------------------------------------------------------------------------------

// Unsigned times signed bytes, pairs summed in 16 bits: what AVX2 has for 8-bit products. Adding the 16-bit sums up is
// counted in; widening them to 32 bits, which kernels do now and then, is not.
__attribute__((target("avx2"))) long avx2_integers(long turns) {
  __m256i acc[8], a = _mm256_set1_epi8((char)(sink & 1)), b = _mm256_set1_epi8(3);
  for (auto& x : acc) x = _mm256_setzero_si256();
  for (long t = 0; t < turns; t++) {
    for (auto& x : acc) {
      __m256i product;
      asm volatile("vpmaddubsw %2, %1, %0" : "=x"(product) : "x"(a), "x"(b));
      asm volatile("vpaddw %1, %0, %0" : "+x"(x) : "x"(product));
    }
  }
  for (int i = 1; i < 8; i++) acc[0] = _mm256_add_epi16(acc[0], acc[i]);
  sink = _mm256_extract_epi32(acc[0], 0) & 0;
  return 8 * 32;
}

__attribute__((target("avx2,fma"))) long avx2_floats(long turns) {
  __m256 acc[12], a = _mm256_set1_ps(1e-9f), b = _mm256_set1_ps((float)sink);
  for (auto& x : acc) x = _mm256_setzero_ps();
  for (long t = 0; t < turns; t++) {
    for (auto& x : acc) {
      x = _mm256_fmadd_ps(a, b, x);
      asm volatile("" : "+x"(x));
    }
  }
  for (int i = 1; i < 12; i++) acc[0] = _mm256_add_ps(acc[0], acc[i]);
  sink = (int32_t)_mm256_cvtss_f32(acc[0]) & 0;
  return 12 * 8;
}

__attribute__((target("avx2"))) uint64_t avx2_read(const uint8_t* data, size_t bytes) {
  __m256i x = _mm256_setzero_si256(), y = x;
  for (size_t i = 0; i < bytes; i += 64) {
    _mm_prefetch((const char*)data + i + kAhead, _MM_HINT_T0);
    x = _mm256_add_epi64(x, _mm256_loadu_si256((const __m256i*)(data + i)));
    y = _mm256_add_epi64(y, _mm256_loadu_si256((const __m256i*)(data + i + 32)));
  }
  x = _mm256_add_epi64(x, y);
  return (uint64_t)_mm256_extract_epi64(x, 0) + (uint64_t)_mm256_extract_epi64(x, 1) + (uint64_t)_mm256_extract_epi64(x, 2) +
         (uint64_t)_mm256_extract_epi64(x, 3);
}

// -- AVX-512 ------------------------------------------------------------------------------------------------------------

#define BEFIT_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))

BEFIT_AVX512 long avx512_integers(long turns) {
  __m512i acc[16], a = _mm512_set1_epi8((char)(sink & 1)), b = _mm512_set1_epi8(3);
  for (auto& x : acc) x = _mm512_setzero_si512();
  for (long t = 0; t < turns; t++) {
    for (auto& x : acc) {
      asm volatile("vpdpbusd %2, %1, %0" : "+v"(x) : "v"(a), "v"(b));  // GCC 12 keeps the sums of the intrinsic in memory
    }
  }
  for (int i = 1; i < 16; i++) acc[0] = _mm512_add_epi32(acc[0], acc[i]);
  sink = _mm_extract_epi32(_mm512_castsi512_si128(acc[0]), 0) & 0;
  return 16 * 64;
}

BEFIT_AVX512 long avx512_floats(long turns) {
  __m512 acc[16], a = _mm512_set1_ps(1e-9f), b = _mm512_set1_ps((float)sink);
  for (auto& x : acc) x = _mm512_setzero_ps();
  for (long t = 0; t < turns; t++) {
    for (auto& x : acc) {
      x = _mm512_fmadd_ps(a, b, x);
      asm volatile("" : "+v"(x));
    }
  }
  for (int i = 1; i < 16; i++) acc[0] = _mm512_add_ps(acc[0], acc[i]);
  sink = (int32_t)_mm512_cvtss_f32(acc[0]) & 0;
  return 16 * 16;
}

BEFIT_AVX512 uint64_t avx512_read(const uint8_t* data, size_t bytes) {
  __m512i x[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
  size_t i = 0;
  for (; i + 256 <= bytes; i += 256)
    for (int j = 0; j < 4; j++) {
      _mm_prefetch((const char*)data + i + 64 * j + kAhead, _MM_HINT_T0);
      x[j] = _mm512_add_epi64(x[j], _mm512_loadu_si512(data + i + 64 * j));
    }
  for (; i < bytes; i += 64) x[0] = _mm512_add_epi64(x[0], _mm512_loadu_si512(data + i));
  x[0] = _mm512_add_epi64(_mm512_add_epi64(x[0], x[1]), _mm512_add_epi64(x[2], x[3]));
  alignas(64) uint64_t lanes[8];
  _mm512_store_si512(lanes, x[0]);
  uint64_t sum = 0;
  for (uint64_t lane : lanes) sum += lane;
  return sum;
}

// -- AMX: full tiles, 16 rows of 64 bytes -------------------------------------------------------------------------------

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t column_bytes[16] = {};
  uint8_t rows[16] = {};
};

__attribute__((target("amx-tile,amx-int8"))) long amx_integers(long turns) {
  // The kernels configure a thread's tiles once: leave them as they were.
  TileConfig before, full;
  _tile_storeconfig(&before);
  for (int t = 0; t < 8; t++) full.rows[t] = 16, full.column_bytes[t] = 64;
  asm volatile("" : "+m"(before), "+m"(full));  // GCC 12 believes that these two instructions touch 8 bytes of them
  _tile_loadconfig(&full);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (long t = 0; t < turns; t++) {
    _tile_dpbsud(4, 0, 2);
    _tile_dpbsud(5, 1, 2);
    _tile_dpbsud(6, 0, 3);
    _tile_dpbsud(7, 1, 3);
  }
  if (before.palette) _tile_loadconfig(&before);
  else _tile_release();
  return 4 * 16 * 16 * 64;
}

#endif

}  // namespace

PeakLoops peak_loops(const std::string& isa) {
#if defined(BEFIT_X86)
  if (isa == "amx") return {amx_integers, avx512_floats};
  if (isa == "avx512") return {avx512_integers, avx512_floats};
  if (isa == "avx2") return {avx2_integers, avx2_floats};
#endif
  return {generic_integers, generic_floats};
}

uint64_t read_lines([[maybe_unused]] const std::string& isa, const uint8_t* data, size_t bytes) {
#if defined(BEFIT_X86)
  if (isa == "amx" || isa == "avx512") return avx512_read(data, bytes);
  if (isa == "avx2") return avx2_read(data, bytes);
#endif
  return generic_read(data, bytes);
}

}  // namespace befit
