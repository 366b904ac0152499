#include "core/weight.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <new>

#include "core/half.hpp"

namespace befit {

constexpr size_t kHugePage = 2 << 20, kChunk = 32 << 20;

Memory::Memory(size_t bytes) : bytes_(bytes) {
  if (!bytes) return;
  const bool huge = bytes >= kHugePage;
  mapped_bytes_ = bytes + (huge ? kHugePage : 0);
  void* p = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  mapped_ = p;
  data_ = (uint8_t*)(huge ? ((uintptr_t)p + kHugePage - 1) / kHugePage * kHugePage : (uintptr_t)p);
  if (huge) madvise(data_, bytes, MADV_HUGEPAGE);
}

Memory::~Memory() {
  if (mapped_) munmap(mapped_, mapped_bytes_);
}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapped_, other.mapped_);
  std::swap(mapped_bytes_, other.mapped_bytes_);
  return *this;
}

uint8_t* Arena::allocate(size_t bytes) {
  bytes = (bytes + 63) / 64 * 64;
  if (chunks_.empty() || next_ + bytes > chunks_.back().bytes()) {
    chunks_.emplace_back(bytes > kChunk ? bytes : kChunk);
    next_ = 0;
  }
  uint8_t* p = chunks_.back().data() + next_;
  next_ += bytes;
  used_ += bytes;
  return p;
}

Matrix Source::packed() const {
  Matrix out;
  out.format = blocks ? blocks->packed : dense;
  out.rows = rows;
  out.columns = columns;
  out.unit = blocks ? blocks->unit : 1;
  return out;
}

void Source::read_row(int row, float* out) const {
  const uint8_t* p = data + row_bytes() * row;
  if (blocks) return dequantize_row(*blocks, p, columns, out);
  if (dense == Format::f32) {
    memcpy(out, p, 4 * (size_t)columns);
    return;
  }
  for (int i = 0; i < columns; i++) {
    uint16_t x;
    memcpy(&x, p + 2 * (size_t)i, 2);
    if (dense == Format::f16) {
      out[i] = half_to_float(x);
    } else {
      const uint32_t bits = (uint32_t)x << 16;
      memcpy(out + i, &bits, 4);
    }
  }
}

namespace {

struct Scratch {
  std::vector<uint8_t> q;
  std::vector<float> s, m;
};

// Sixteen rows of canonical integers to one packed tile; see kernels.hpp for the layout.
void pack_tile(const Source& src, const Matrix& out, int tile, Scratch& scratch) {
  const int k = src.columns, group = src.blocks->group, groups = k / group, ints = integer_bytes(out.format);
  std::fill(scratch.q.begin(), scratch.q.end(), (uint8_t)0);
  std::fill(scratch.s.begin(), scratch.s.end(), 0.0f);
  std::fill(scratch.m.begin(), scratch.m.end(), 0.0f);
  for (int r = 0; r < kTileRows && tile * kTileRows + r < src.rows; r++)
    src.blocks->decode(src.data + src.row_bytes() * (tile * kTileRows + r), k, &scratch.q[(size_t)r * k],
                       &scratch.s[(size_t)r * groups], &scratch.m[(size_t)r * groups]);
  uint8_t* p = out.data + tile * out.tile_bytes();
  const float inverse = 1 / src.blocks->unit;
  for (int g = 0; g < k / kGroup; g++, p += group_bytes(out.format)) {
    for (int r = 0; r < kTileRows; r++) {
      const uint8_t* q = &scratch.q[(size_t)r * k + g * kGroup];
      if (out.format == Format::q8s) {
        for (int j = 0; j < 8; j++) memcpy(p + 64 * j + 4 * r, q + 4 * j, 4);
        continue;
      }
      for (int i = 0; i < 16; i++) p[64 * (i / 4) + 4 * r + i % 4] = (uint8_t)((q[i] & 15) | (q[i + 16] & 15) << 4);
      if (out.format == Format::q5a || out.format == Format::q5s)
        for (int i = 0; i < 32; i++) p[256 + 8 * (i / 4) + r / 2] |= (uint8_t)((q[i] >> 4) << (4 * (r & 1) + i % 4));
      if (out.format == Format::q6s)
        for (int i = 0; i < 32; i++) p[256 + 64 * (i / 16) + 4 * r + i % 4] |= (uint8_t)((q[i] >> 4) << (2 * (i / 4 % 4)));
    }
    uint16_t* scales = (uint16_t*)(p + ints);
    for (int r = 0; r < kTileRows; r++) {
      const float *s = &scratch.s[(size_t)r * groups], *m = &scratch.m[(size_t)r * groups];
      if (group == 16) {
        scales[r] = float_to_half(s[2 * g] * inverse);
        scales[16 + r] = float_to_half(s[2 * g + 1] * inverse);
      } else {
        scales[r] = float_to_half(s[g] * inverse);
        if (is_affine(out.format)) scales[16 + r] = float_to_half(m[g] * inverse);
      }
    }
  }
}

void pack_dense_tile(const Source& src, const Matrix& out, int tile) {
  const int size = element_bytes(out.format);
  uint8_t* p = out.data + tile * out.tile_bytes();
  for (int r = 0; r < kTileRows && tile * kTileRows + r < src.rows; r++) {
    const uint8_t* row = src.data + src.row_bytes() * (tile * kTileRows + r);
    for (int k = 0; k < src.columns; k++) memcpy(p + ((size_t)k * kTileRows + r) * size, row + (size_t)k * size, size);
  }
}

}  // namespace

void pack(const std::vector<Packing>& work, ThreadPool& pool) {
  std::atomic<int64_t> next{0};
  pool.run([&](int) {
    int64_t first = 0;  // number of the first tile of the matrix at hand, over all matrices
    auto at = work.begin();
    Scratch scratch;
    for (int64_t tile; at != work.end();) {
      tile = next.fetch_add(1);
      for (; at != work.end() && tile >= first + at->to.tiles(); at++) first += at->to.tiles();
      if (at == work.end()) break;
      const auto& [from, to] = *at;
      if (!from.blocks) {
        pack_dense_tile(from, to, (int)(tile - first));
        continue;
      }
      scratch.q.resize((size_t)kTileRows * from.columns);
      scratch.s.resize((size_t)kTileRows * from.columns / from.blocks->group);
      scratch.m.resize(scratch.s.size());
      pack_tile(from, to, (int)(tile - first), scratch);
    }
  });
}

std::string read_tiles(int file, const std::vector<Reading>& work, ThreadPool& pool) {
  constexpr size_t kPiece = 512 << 10;
  struct Piece {
    uint8_t* to;
    size_t offset, bytes;
  };
  std::vector<Piece> pieces;
  for (const auto& [offset, to] : work)
    for (size_t at = 0; at < to.bytes(); at += kPiece) pieces.push_back({to.data + at, offset + at, std::min(kPiece, to.bytes() - at)});
  // Up to about a second's reading, a start waits for the interpreter, which needs a core: the caller's thread leaves it.
  const bool spare_one = pool.size() > 1 && pieces.size() * kPiece < (1u << 30);
  std::atomic<size_t> next{0}, missing{0};
  std::atomic<int> error{0};
  pool.run([&](int thread) {
    if (spare_one && thread == 0) return;
    for (size_t i; (i = next.fetch_add(1)) < pieces.size();) {
      auto [to, offset, bytes] = pieces[i];
      while (bytes) {
        const ssize_t n = pread(file, to, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
          if (n < 0) error = errno;
          else missing = offset + bytes;
          next = pieces.size();
          return;
        }
        to += n;
        offset += (size_t)n;
        bytes -= (size_t)n;
      }
    }
  });
  if (error) return std::strerror(error);
  if (missing) return "the file ends before byte " + std::to_string(missing) + ", inside a matrix";
  return {};
}

}  // namespace befit
