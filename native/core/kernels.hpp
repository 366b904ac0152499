// What every instruction set provides: one table of kernels, chosen once at start.
//
// Packed weights are tiles of 16 rows. A quantised tile holds, for each group of 32 columns in turn, the integers q and
// then what they are multiplied by:
//   4 bits   4 x 64 bytes; byte r*4+b of vector v: low nibble is column 4v+b of row r, high nibble column 16+4v+b
//   5 bits   as 4 bits, then 8 x 8 bytes of fifth bits: bit r*4+b of word j belongs to column 4j+b of row r
//   6 bits   as 4 bits, then 2 x 64 bytes of upper pairs: bits 2f, 2f+1 of byte r*4+b of vector i: column 4(4i+f)+b
//   8 bits   8 x 64 bytes; byte r*4+b of vector j is column 4j+b of row r
//   steps    (up to 6 bits) 16 int16 for each 32 (or each 16) columns: rows 0, 2 .. 14, then rows 1, 3 .. 15
//   scales   (8 bits) 16 halves
// and at its end, for up to 6 bits,
//   offsets  (affine) for each pair of groups in turn, for each row, two int16
//   units    16 floats, one a row
// With up to 6 bits a weight is an integer of 16 bits times its row's unit,
//   w = unit * (step * q - offset),   offset = step * zero when not affine,
// and a product with a token's integers of 16 bits is a sum of integers, exact in any order: however the columns are cut
// and whatever the instruction, a result has the same bits. With 8 bits w = scale * (q - 128), and the groups' sums,
// exact too, are added as floats in order.
// Column order and row count are the same for every instruction set: one packed file serves them all.
// A dense tile holds 16 values (one a row) for each column in turn.
// Folders that `befit build` wrote hold tiles as they are here: raise kPackedLayout with every change to their bytes.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>

namespace befit {

constexpr int kTileRows = 16;
constexpr int kGroup = 32;
constexpr int kBlockTokens = 16;  // tokens of a block of quantised activations
constexpr int kCallTokens = 128;  // tokens of one matrix kernel call at most
constexpr int kMaxColumns = 1 << 15;  // of a quantised matrix: so many products of bytes fit 32 bits
constexpr int kPage = 16;         // tokens of a KV page
constexpr int kAttnTile = 64;     // KV tokens of one softmax update

enum class Format : int { q4a, q4s, q5a, q5s, q6s, q8s, f32, f16, bf16 };
constexpr int kPackedLayout = 2;
enum class Activation : int { silu, gelu_tanh, gelu_erf };

constexpr bool is_quantized(Format f) { return f <= Format::q8s; }
constexpr int zero_of(Format f) {
  return f == Format::q4s ? 8 : f == Format::q5s ? 16 : f == Format::q6s ? 32 : f == Format::q8s ? 128 : 0;
}
constexpr int bits_of(Format f) {
  return f == Format::q4a || f == Format::q4s ? 4 : f == Format::q5a || f == Format::q5s ? 5 : f == Format::q6s ? 6 : 8;
}
constexpr bool is_affine(Format f) { return f == Format::q4a || f == Format::q5a; }
constexpr int integer_bytes(Format f) {  // of one group of one tile
  switch (f) {
    case Format::q4a: case Format::q4s: return 256;
    case Format::q5a: case Format::q5s: return 320;
    case Format::q6s: return 384;
    default: return 512;
  }
}
constexpr bool has_steps(Format f) { return bits_of(f) <= 6; }
constexpr int group_bytes(Format f) { return integer_bytes(f) + (f == Format::q6s ? 64 : 32); }
constexpr size_t quantized_tile_bytes(Format f, int columns) {
  const int groups = columns / kGroup;
  const size_t offsets = is_affine(f) ? (size_t)(groups + 1) / 2 * 4 * kTileRows : 0;
  return (size_t)groups * group_bytes(f) + offsets + (has_steps(f) ? 4 * kTileRows : 0);
}
constexpr int element_bytes(Format f) { return f == Format::f32 ? 4 : 2; }

// Activations as integers of 16 bits with one scale a token: x = d * q, q = 256 * high + low, both signed bytes. Tokens lie
// in blocks of 16, and columns in pairs of groups, which fill the tiles of AMX. An odd last group has a neighbour of zeros.
struct QAct {
  static constexpr int kPair = 2 * kGroup;                  // columns, and bytes of a token's row in a plane
  static constexpr int kPlane = kBlockTokens * kPair;       // bytes
  static constexpr int kBytes = 2 * kPlane;                 // bytes of a pair
  int groups = 0;
  int8_t* q = nullptr;       // [block][pair][high, low][16][64]
  float* d = nullptr;        // [block][16]
  int32_t* sums = nullptr;   // [block][group][first half, second half][16]: sums of 16 q
  int16_t* parts = nullptr;  // [block][pair][high, low][16][2]: each group's sum as 2048 * high + low

  int pairs() const { return (groups + 1) / 2; }
  const int8_t* bytes(int token) const {
    return q + (size_t)(token / kBlockTokens) * pairs() * kBytes + token % kBlockTokens * kPair;
  }
  const int32_t* sums_of(int token) const {
    return sums + (size_t)(token / kBlockTokens) * groups * 2 * kBlockTokens + token % kBlockTokens;
  }
  const int16_t* parts_of(int token) const {
    return parts + ((size_t)(token / kBlockTokens) * pairs() * 2 * kBlockTokens + token % kBlockTokens) * 2;
  }
};

// Rows of one KV head: `rows` queries that read the same pages.
struct AttendCall {
  const uint16_t* k;        // the layer's keys in page 0: [kv_head][dim][16]
  const uint16_t* v;        // the layer's values in page 0: [kv_head][16][dim]
  size_t page_stride;       // elements from a page to the next
  const int32_t* table;     // page numbers of the sequence
  int kv_head, dim;
  int rows;
  const float* const* q;    // [rows] -> [dim], already multiplied by scale * log2(e)
  float* const* out;        // [rows] -> [dim]
  const int32_t* last;      // [rows] newest position the row sees
  const int32_t* first;     // [rows] oldest position the row sees
  float* scratch;           // at least rows * (kAttnTile) floats
};

struct Kernels {
  const char* isa;
  // out[m][stride], the first 16 * tiles of each = the rows of so many tiles, which follow each other, times tokens
  // token .. token+count-1; token begins a block.
  void (*gemm)(Format, const uint8_t* tile, int tiles, const QAct&, int token, int count, float* out, size_t stride);
  // the same over float activations x[m][x_stride]
  void (*gemm_dense)(Format, const uint8_t* tile, int tiles, int columns, const float* x, size_t x_stride, int count, float* out, size_t stride);
  // one token, from 32 * groups floats; NaN and infinity survive in d
  void (*quantize)(const float* x, const QAct&, int token);
  void (*rms_norm)(const float* x, const float* weight, int n, float eps, float* out);
  void (*layer_norm)(const float* x, const float* weight, const float* bias, int n, float eps, float* out);
  void (*activate)(Activation, const float* x, int n, float* out);
  void (*gated)(Activation, const float* gate, const float* up, int n, float* out);
  void (*add)(const float* a, const float* b, int n, float* out);
  // halves of x clamped to the finite range, NaN as 0: what is stored in the cache can never poison another sequence
  void (*to_half)(const float* x, int n, uint16_t* out);
  void (*attend)(const AttendCall&);
  // largest value and its first index; false when any value is NaN or infinite
  bool (*peak)(const float* x, int n, float* max, int* index);
  // sum of exp((x - max) * scale)
  double (*sum_exp)(const float* x, int n, float max, float scale);
  // ids of values above the threshold, rising, at most cap of them; returns how many there are
  int (*above)(const float* x, int n, float threshold, int* ids, int cap);
};

const Kernels* kernels_generic();
const Kernels* kernels_avx2();  // these three only where BEFIT_X86 is defined
const Kernels* kernels_avx512();
const Kernels* kernels_amx();

}  // namespace befit
