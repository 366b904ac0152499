// A weight matrix packed for the kernels, or kept as rows for lookups.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/blocks.hpp"
#include "core/pool.hpp"

namespace befit {

// Anonymous zeroed memory in huge pages where the system has them; pages appear when first touched.
// 2 MiB-aligned when larger than that.
class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t bytes);
  ~Memory();
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept;
  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
  void* mapped_ = nullptr;  // what to unmap: data_ with what alignment needed around it
  size_t mapped_bytes_ = 0;
};

// Many small pieces cut from few large ones, so that weights lie in huge pages: with small pages, address translation
// would cost more than reading them.
class Arena {
 public:
  uint8_t* allocate(size_t bytes);
  size_t used() const { return used_; }

 private:
  std::vector<Memory> chunks_;
  size_t next_ = 0, used_ = 0;  // offset in the newest chunk; bytes handed out
};

// [rows, columns], in tiles of 16 rows (the last one padded with zero weights).
struct Matrix {
  Format format = Format::f32;
  int rows = 0, columns = 0;
  uint8_t* data = nullptr;

  int tiles() const { return (rows + kTileRows - 1) / kTileRows; }
  size_t tile_bytes() const {
    return is_quantized(format) ? quantized_tile_bytes(format, columns) : (size_t)columns * kTileRows * element_bytes(format);
  }
  const uint8_t* tile(int t) const { return data + t * tile_bytes(); }
  size_t bytes() const { return tile_bytes() * tiles(); }
  // Some of its rows, from the first row of a tile.
  Matrix part(int first, int count) const { return {format, count, columns, data + first / kTileRows * tile_bytes()}; }
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
  Matrix packed() const;  // the form that packing gives it, without memory
  void read_row(int row, float* out) const;
};

// What to fill matrices with; their memory is zero. All of them are one piece of work, because a thread that has to wait
// for the others after each matrix waits long when something else runs on the same cores, as it does during a start.
struct Packing {
  Source from;
  Matrix to;
};
void pack(const std::vector<Packing>&, ThreadPool&);

struct Reading {
  size_t offset;  // in the file, where the packed tiles begin
  Matrix to;
};
// Returns what went wrong, or nothing.
std::string read_tiles(int file, const std::vector<Reading>&, ThreadPool&);

}  // namespace befit
