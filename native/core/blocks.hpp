// Rows of blocks to canonical integers and scales: w = s * q - m, q unsigned, one (s, m) a group.
// Source of the formats: the GGUF specification and ggml's block definitions (ggml-common.h); q4_z and q4_zb are befit's own.
#pragma once
#include <cstdint>
#include <string_view>

#include "core/kernels.hpp"

namespace befit {

struct BlockFormat {
  std::string_view name;
  Format packed;
  int block, bytes;
  int group;          // columns that share a scale: 32, or 16 for q6_k
  // q[columns], s and m[columns / group]; m is left alone when the packed format is symmetric
  void (*decode)(const uint8_t* raw, int columns, uint8_t* q, float* s, float* m);
};

// null when the name is not a block format
const BlockFormat* find_block_format(std::string_view name);

// One row to float32: used for the embedding, whose rows are read one at a time.
void dequantize_row(const BlockFormat&, const uint8_t* raw, int columns, float* out);

}  // namespace befit
