// A weight matrix packed for the kernels, or kept as rows for lookups.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/blocks.hpp"
#include "core/pool.hpp"

namespace befit {

// Anonymous zeroed memory in huge pages where the system has them; pages appear when first touched.
class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t bytes);
  ~Memory();
  Memory(Memory&& other) noexcept : data_(other.data_), bytes_(other.bytes_) { other.data_ = nullptr; }
  Memory& operator=(Memory&& other) noexcept;
  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

// How a weight lies in its file: rows of GGUF blocks, or of f32, f16 or bf16 values.
struct Source {
  const uint8_t* data;
  int rows, columns;
  const BlockFormat* blocks;  // null for dense rows
  Format dense;               // used when blocks is null

  size_t row_bytes() const {
    return blocks ? (size_t)(columns / blocks->block) * blocks->bytes : (size_t)columns * element_bytes(dense);
  }
  void read_row(int row, float* out) const;
};

// [rows, columns], in tiles of 16 rows (the last one padded with zero weights).
struct Matrix {
  Format format = Format::f32;
  int rows = 0, columns = 0;
  float unit = 1;  // results are multiplied by it
  Memory memory;

  int tiles() const { return (rows + kTileRows - 1) / kTileRows; }
  size_t tile_bytes() const {
    return is_quantized(format) ? (size_t)(columns / kGroup) * group_bytes(format)
                                : (size_t)columns * kTileRows * element_bytes(format);
  }
  const uint8_t* tile(int t) const { return memory.data() + t * tile_bytes(); }
};

Matrix pack(const Source&, ThreadPool&);

}  // namespace befit
