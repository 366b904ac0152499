#include "core/weight.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
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

// The integers of one group of one row; see kernels.hpp for the layout.
void pack_integers(Format format, const uint8_t* q, int r, uint8_t* p) {
  if (format == Format::q8s) {
    for (int j = 0; j < 8; j++) memcpy(p + 64 * j + 4 * r, q + 4 * j, 4);
    return;
  }
  for (int i = 0; i < 16; i++) p[64 * (i / 4) + 4 * r + i % 4] = (uint8_t)((q[i] & 15) | (q[i + 16] & 15) << 4);
  if (format == Format::q5a || format == Format::q5s)
    for (int i = 0; i < 32; i++) p[256 + 8 * (i / 4) + r / 2] |= (uint8_t)((q[i] >> 4) << (4 * (r & 1) + i % 4));
  if (format == Format::q6s)
    for (int i = 0; i < 32; i++) p[256 + 64 * (i / 16) + 4 * r + i % 4] |= (uint8_t)((q[i] >> 4) << (2 * (i / 4 % 4)));
}

// The unit of a row: the smallest with which no step * q - offset leaves 16 bits. NaN when a scale is not finite, so that
// a damaged row's results are not either.
double row_unit(Format format, const float* s, const float* m, int groups) {
  const double most = (1 << bits_of(format)) - 1, zero = zero_of(format);
  double largest = 0;
  for (int g = 0; g < groups; g++) {
    const double offset = is_affine(format) ? m[g] : zero * s[g], end = most * s[g] - offset;
    if (!std::isfinite(offset) || !std::isfinite(end)) return std::numeric_limits<double>::quiet_NaN();
    largest = std::max({largest, std::fabs(offset), std::fabs(end)});
  }
  return largest / (32766 - (most + 1) / 2);  // rounding a step moves the end by most / 2, rounding an offset by 1 / 2
}

// Sixteen rows of canonical integers to one packed tile.
void pack_tile(const Source& src, const Matrix& out, int tile, Scratch& scratch) {
  const int k = src.columns, group = src.blocks->group, groups = k / group;
  std::fill(scratch.q.begin(), scratch.q.end(), (uint8_t)0);
  std::fill(scratch.s.begin(), scratch.s.end(), 0.0f);
  std::fill(scratch.m.begin(), scratch.m.end(), 0.0f);
  for (int r = 0; r < kTileRows && tile * kTileRows + r < src.rows; r++)
    src.blocks->decode(src.data + src.row_bytes() * (tile * kTileRows + r), k, &scratch.q[(size_t)r * k],
                       &scratch.s[(size_t)r * groups], &scratch.m[(size_t)r * groups]);
  uint8_t* const first = out.data + tile * out.tile_bytes();
  const int bytes = group_bytes(out.format), per_group = kGroup / group;
  uint8_t* const tail = first + (size_t)(k / kGroup) * bytes;
  for (int r = 0; r < kTileRows; r++) {
    const float *s = &scratch.s[(size_t)r * groups], *m = &scratch.m[(size_t)r * groups];
    for (int g = 0; g < k / kGroup; g++) pack_integers(out.format, &scratch.q[(size_t)r * k + g * kGroup], r, first + (size_t)g * bytes);
    if (!has_steps(out.format)) {
      for (int g = 0; g < groups; g++) {
        const uint16_t half = float_to_half(s[g]);
        memcpy(first + (size_t)g * bytes + integer_bytes(out.format) + 2 * r, &half, 2);
      }
      continue;
    }
    const double unit = row_unit(out.format, s, m, groups);
    const bool usable = unit > 0;  // not NaN
    const int place = r / 2 + r % 2 * 8;
    for (int g = 0; g < groups; g++) {
      const int16_t step = usable ? (int16_t)std::lrint(s[g] / unit) : 0;
      uint8_t* steps = first + (size_t)(g / per_group) * bytes + integer_bytes(out.format) + 32 * (g % per_group);
      memcpy(steps + 2 * place, &step, 2);
      if (!is_affine(out.format)) continue;
      const int16_t offset = usable ? (int16_t)std::lrint(m[g] / unit) : 0;
      memcpy(tail + (size_t)(g / 2) * 4 * kTileRows + 4 * r + 2 * (g % 2), &offset, 2);
    }
    const float as_float = (float)unit;
    memcpy(first + out.tile_bytes() - 4 * kTileRows + 4 * r, &as_float, 4);
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
