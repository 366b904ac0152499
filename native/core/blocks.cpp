#include "core/blocks.hpp"

#include <cstring>
#include <vector>

#include "core/half.hpp"

namespace befit {
namespace {

uint16_t read16(const uint8_t* p) { return (uint16_t)(p[0] | p[1] << 8); }
float read_half(const uint8_t* p) { return half_to_float(read16(p)); }

// Low nibbles are the first 16 columns of a block, high nibbles the last 16.
void nibbles(const uint8_t* p, uint8_t* q) {
  for (int i = 0; i < 16; i++) {
    q[i] = p[i] & 15;
    q[i + 16] = p[i] >> 4;
  }
}

void fifth_bits(const uint8_t* p, uint8_t* q) {
  for (int i = 0; i < 32; i++) q[i] |= (uint8_t)(((p[i >> 3] >> (i & 7)) & 1) << 4);
}

// q4_0, q4_1, q5_0, q5_1: half d [half min] [4 bytes of fifth bits] 16 bytes of nibbles
template <bool Affine, bool Five> void decode_nibbles(const uint8_t* p, int columns, uint8_t* q, float* s, float* m) {
  for (int g = 0; g < columns / 32; g++, q += 32) {
    s[g] = read_half(p);
    p += 2;
    if (Affine) {
      m[g] = -read_half(p);
      p += 2;
    }
    const uint8_t* fifth = p;
    if (Five) p += 4;
    nibbles(p, q);
    if (Five) fifth_bits(fifth, q);
    p += 16;
  }
}

// q4_z, q4_zb: half or bfloat16 scale, byte zero, a byte of nothing, 16 bytes of nibbles: what AWQ and GPTQ say
template <bool BFloat> void decode_zero(const uint8_t* p, int columns, uint8_t* q, float* s, float* m) {
  for (int g = 0; g < columns / 32; g++, p += 20, q += 32) {
    if (BFloat) {
      const uint32_t bits = (uint32_t)read16(p) << 16;
      memcpy(s + g, &bits, 4);
    } else {
      s[g] = read_half(p);
    }
    m[g] = s[g] * (float)p[2];
    nibbles(p + 4, q);
  }
}

void decode_q8_0(const uint8_t* p, int columns, uint8_t* q, float* s, float*) {
  for (int g = 0; g < columns / 32; g++, p += 34, q += 32) {
    s[g] = read_half(p);
    for (int i = 0; i < 32; i++) q[i] = p[2 + i] ^ 0x80;
  }
}

// The 8 six-bit scales and 8 six-bit minima of a K-quant superblock, in 12 bytes.
void scale_min(const uint8_t* p, int j, int* scale, int* min) {
  if (j < 4) {
    *scale = p[j] & 63;
    *min = p[j + 4] & 63;
  } else {
    *scale = (p[j + 4] & 15) | (p[j - 4] >> 6) << 4;
    *min = (p[j + 4] >> 4) | (p[j] >> 6) << 4;
  }
}

// q4_k, q5_k: half d, half dmin, 12 bytes of scales, [32 bytes of fifth bits], 128 bytes of nibbles
template <bool Five> void decode_k(const uint8_t* p, int columns, uint8_t* q, float* s, float* m) {
  for (int b = 0; b < columns / 256; b++, s += 8, m += 8) {
    const float d = read_half(p), dmin = read_half(p + 2);
    for (int j = 0; j < 8; j++) {
      int scale, min;
      scale_min(p + 4, j, &scale, &min);
      s[j] = d * (float)scale;
      m[j] = dmin * (float)min;
    }
    const uint8_t *fifth = p + 16, *low = p + (Five ? 48 : 16);
    for (int j = 0; j < 4; j++, q += 64)
      for (int i = 0; i < 32; i++) {
        const uint8_t x = low[32 * j + i];
        q[i] = (uint8_t)((x & 15) | (Five ? ((fifth[i] >> (2 * j)) & 1) << 4 : 0));
        q[i + 32] = (uint8_t)((x >> 4) | (Five ? ((fifth[i] >> (2 * j + 1)) & 1) << 4 : 0));
      }
    p += Five ? 176 : 144;
  }
}

// q6_k: 128 bytes of nibbles, 64 bytes of upper pairs, 16 signed scales, half d; groups of 16
void decode_q6_k(const uint8_t* p, int columns, uint8_t* q, float* s, float*) {
  for (int b = 0; b < columns / 256; b++, p += 210, s += 16) {
    const float d = read_half(p + 208);
    for (int j = 0; j < 16; j++) s[j] = d * (float)(int8_t)p[192 + j];
    for (int n = 0; n < 2; n++, q += 128) {
      const uint8_t *low = p + 64 * n, *high = p + 128 + 32 * n;
      for (int i = 0; i < 32; i++) {
        q[i] = (uint8_t)((low[i] & 15) | (high[i] & 3) << 4);
        q[i + 32] = (uint8_t)((low[i + 32] & 15) | ((high[i] >> 2) & 3) << 4);
        q[i + 64] = (uint8_t)((low[i] >> 4) | ((high[i] >> 4) & 3) << 4);
        q[i + 96] = (uint8_t)((low[i + 32] >> 4) | (high[i] >> 6) << 4);
      }
    }
  }
}

const BlockFormat kFormats[] = {
    {"q4_0", Format::q4s, 32, 18, 32, decode_nibbles<false, false>},
    {"q4_1", Format::q4a, 32, 20, 32, decode_nibbles<true, false>},
    {"q5_0", Format::q5s, 32, 22, 32, decode_nibbles<false, true>},
    {"q5_1", Format::q5a, 32, 24, 32, decode_nibbles<true, true>},
    {"q8_0", Format::q8s, 32, 34, 32, decode_q8_0},
    {"q4_k", Format::q4a, 256, 144, 32, decode_k<false>},
    {"q5_k", Format::q5a, 256, 176, 32, decode_k<true>},
    {"q4_z", Format::q4a, 32, 20, 32, decode_zero<false>},
    {"q4_zb", Format::q4a, 32, 20, 32, decode_zero<true>},
    {"q6_k", Format::q6s, 256, 210, 16, decode_q6_k},
};

}  // namespace

const BlockFormat* find_block_format(std::string_view name) {
  for (const BlockFormat& f : kFormats)
    if (f.name == name) return &f;
  return nullptr;
}

void dequantize_row(const BlockFormat& f, const uint8_t* raw, int columns, float* out) {
  const int groups = columns / f.group;
  std::vector<uint8_t> q(columns);
  std::vector<float> s(groups), m(groups);
  f.decode(raw, columns, q.data(), s.data(), m.data());
  for (int g = 0; g < groups; g++) {
    const float offset = is_affine(f.packed) ? m[g] : s[g] * (float)zero_of(f.packed);
    for (int i = g * f.group; i < (g + 1) * f.group; i++) out[i] = (float)q[i] * s[g] - offset;
  }
}

}  // namespace befit
