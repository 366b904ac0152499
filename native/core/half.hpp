// Scalar half-precision conversion (IEEE 754 binary16), for code that runs before or without SIMD.
#pragma once
#include <cstdint>

namespace befit {

static inline float half_to_float(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff;
  uint32_t bits;
  float out;
  if (rest >= 0x7c00) {                      // infinity or NaN
    bits = sign | 0x7f800000u | (rest & 0x3ff) << 13;
  } else {                                   // the product normalises subnormals
    const uint32_t shifted = rest << 13;
    float magnitude;
    __builtin_memcpy(&magnitude, &shifted, 4);
    magnitude *= 0x1p112f;
    __builtin_memcpy(&bits, &magnitude, 4);
    bits |= sign;
  }
  __builtin_memcpy(&out, &bits, 4);
  return out;
}

// Rounds to nearest even; overflow gives infinity.
static inline uint16_t float_to_half(float f) {
  uint32_t x;
  __builtin_memcpy(&x, &f, 4);
  const uint16_t sign = (uint16_t)((x >> 16) & 0x8000);
  x &= 0x7fffffff;
  if (x > 0x7f800000) return sign | 0x7e00;
  if (x >= 0x477ff000) return sign | 0x7c00;
  if (x < 0x38800000) {                      // subnormal half: let float addition do the rounding
    float magnitude;
    __builtin_memcpy(&magnitude, &x, 4);
    magnitude += 0.5f;
    uint32_t y;
    __builtin_memcpy(&y, &magnitude, 4);
    return sign | (uint16_t)(y - 0x3f000000);
  }
  const uint32_t odd = (x >> 13) & 1;
  return sign | (uint16_t)((x - 0x38000000 + 0xfff + odd) >> 13);
}

}  // namespace befit
