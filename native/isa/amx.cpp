// AVX-512 with AMX: blocks of 16 tokens and rests of more than kFewest go through the tile unit, in tiles of 16 or 8
// tokens; smaller rests go through the AVX-512 code. So do weights with two scales a group (Q6_K), which would leave half
// of every tile empty.
//
// A tile multiplication takes 16 tokens x 64 bytes by 64 bytes x 16 rows. With weights q of 4 bits one of them does a whole
// group of 12-bit activations: the tokens' bytes as they lie in QAct, high then low, against the bytes 16 q, then q. With 5
// bits there is room for 8 q only, so the high bytes are multiplied by it twice. Wider weights and 8-bit activations go 32
// bytes at a time, and high and low products are added afterwards. The integers are exact, and the float
// operations for one token are those of gemm.inl in the same order: the results are bit for bit the same.
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

// Tiles 0, 1: tokens and weights of a multiplication by 64 bytes; 2, 3: by 32 bytes; 4 to 7: products. The numbers are
// parts of the instructions, so they must be literals.
static void configure(int tokens) {
  static thread_local int now = 0;
  if (now == tokens) return;
  TileConfig c;
  for (int t = 0; t < 8; t++) {
    c.rows[t] = t == 1 ? 16 : t == 3 ? 8 : tokens;
    c.column_bytes[t] = t == 2 ? 32 : 64;
  }
  // Not the intrinsic: gcc 12 believes that it reads eight bytes only, and may leave the rest of c unwritten.
  asm volatile("ldtilecfg %0" : : "m"(c));
  now = tokens;
}

// How a format's groups are multiplied.
template <Format F, bool Wide> struct Plan {
  static constexpr bool joined = Wide && bits_of(F) <= 5;  // high and low in one product
  static constexpr bool again = joined && bits_of(F) == 5;  // and high once more
  static constexpr bool split = Wide && !joined;            // high and low apart
  static constexpr int bytes = joined ? 1024 : 512;        // of a group's widened weights
};

constexpr int kPanelBytes = 10 << 10;  // of groups widened at a time: with activations and products they stay in the first-level cache

struct alignas(64) Panel {
  uint8_t w[kPanelBytes];
};

template <Format F, bool Wide> static const uint8_t* widen(const uint8_t* p, int groups, Panel& out) {
  if constexpr (F == Format::q8s) return p;
  uint8_t* w = out.w;
  for (int g = 0; g < groups; g++, p += group_bytes(F), w += Plan<F, Wide>::bytes) {
    for (int b = 0; b < group_bytes(F); b += 64) prefetch(p + groups * group_bytes(F) + b);
    if constexpr (Plan<F, Wide>::again) {
      VI x[8];
      expand<F>(p, 0, x);
      for (int j = 0; j < 8; j++) {
        _mm512_store_si512(w + 64 * j, w_shl<3>(x[j]));
        _mm512_store_si512(w + 64 * (j + 8), x[j]);
      }
    } else if constexpr (Plan<F, Wide>::joined) {
      const VI low = b_set(15), high = b_set(-16);
      for (int j = 0; j < 4; j++) {
        const VI x = i_load(p + 64 * j);
        _mm512_store_si512(w + 64 * j, b_and(w_shl<4>(x), high));
        _mm512_store_si512(w + 64 * (j + 4), b_and(x, high));
        _mm512_store_si512(w + 64 * (j + 8), b_and(x, low));
        _mm512_store_si512(w + 64 * (j + 12), b_and(w_shr<4>(x), low));
      }
    } else {
      VI x[8];
      expand<F>(p, 0, x);
      for (int j = 0; j < 8; j++) _mm512_store_si512(w + 64 * j, x[j]);
    }
  }
  return out.w;
}

struct alignas(64) Products {
  int32_t high[kBlockTokens][16], low[kBlockTokens][16];
};

// 16 tokens times one group, into the tiles of one of two slots.
template <Format F, bool Wide, int Slot> static inline void multiply(const uint8_t* w, const int8_t* q) {
  constexpr int stride = QAct::bytes(Wide);
  if constexpr (Plan<F, Wide>::joined) {
    _tile_loadd(0, q, stride);
    _tile_loadd(1, w, 64);
    if constexpr (Slot == 0) {
      _tile_zero(4);
      _tile_dpbsud(4, 0, 1);
    } else {
      _tile_zero(6);
      _tile_dpbsud(6, 0, 1);
    }
    if constexpr (Plan<F, Wide>::again) {
      _tile_loadd(2, q, stride);
      _tile_loadd(3, w, 64);
      if constexpr (Slot == 0) _tile_dpbsud(4, 2, 3);
      else _tile_dpbsud(6, 2, 3);
    }
    return;
  }
  if constexpr (F == Format::q8s)
    for (int b = 0; b < group_bytes(F); b += 64) prefetch(w + 4096 + b);
  _tile_loadd(2, q, stride);
  _tile_loadd(3, w, 64);
  if constexpr (Slot == 0) {
    _tile_zero(4);
    _tile_dpbsud(4, 2, 3);
  } else {
    _tile_zero(6);
    _tile_dpbsud(6, 2, 3);
  }
  if constexpr (Plan<F, Wide>::split) {
    _tile_loadd(2, q + kGroup, stride);
    if constexpr (Slot == 0) {
      _tile_zero(5);
      _tile_dpbsud(5, 2, 3);
    } else {
      _tile_zero(7);
      _tile_dpbsud(7, 2, 3);
    }
  }
}

template <bool Split, int Slot> static inline void store(Products& out) {
  if constexpr (Slot == 0) {
    _tile_stored(4, out.high, 64);
    if constexpr (Split) _tile_stored(5, out.low, 64);
  } else {
    _tile_stored(6, out.high, 64);
    if constexpr (Split) _tile_stored(7, out.low, 64);
  }
}

template <bool Split> static inline VF product(const Products& p, int m) {
  VI x = i_load(p.high[m]);
  if constexpr (Split) x = i_add(i_shl<4>(x), i_load(p.low[m]));
  return i_float(x);
}

// One group's products, scaled, into the tokens' sums. Inlined by force: the sums must stay in registers.
template <Format F, bool Split, int Tokens>
[[gnu::always_inline]] static inline void add_group(const Products& x, const uint8_t* scales, const float* d, const float* sum,
                                                    VF (&acc)[Tokens]) {
  const VF s = f_load16((const uint16_t*)scales);
  const VF z = is_affine(F) ? f_load16((const uint16_t*)scales + 16) : f_mul(s, f_set(zero_of(F)));
#pragma GCC unroll 16
  for (int m = 0; m < Tokens; m++) {
    const VF t = f_fma(product<Split>(x, m), f_mul(s, f_set(d[m])), acc[m]);
    acc[m] = f_fnma(z, f_set(sum[m]), t);
  }
}

// Adds `groups` groups, from group g0 on, to out[Tokens][out_stride]. Three groups are in flight: one is multiplied, the one before
// is stored, the one before that is scaled and summed, because the tile unit and its stores have long latencies.
template <Format F, bool Wide, int Tokens>
static void sum_groups(const uint8_t* w, const uint8_t* p, const QAct& act, int token, int g0, int groups, float* out, size_t out_stride) {
  constexpr bool split = Plan<F, Wide>::split;
  constexpr int bytes = group_bytes(F), step = kBlockTokens * QAct::bytes(Wide), stride = F == Format::q8s ? bytes : Plan<F, Wide>::bytes;
  const size_t cell = act.cell(token) + (size_t)g0 * kBlockTokens;
  const int8_t* q = act.q + cell * QAct::bytes(Wide);
  const float *d = act.d + cell, *sum = act.sum + cell;
  const uint8_t* scales = p + integer_bytes(F);
  Products products[2];
  VF acc[Tokens];
#pragma GCC unroll 16
  for (int m = 0; m < Tokens; m++) acc[m] = g0 ? f_load(out + m * out_stride) : f_zero();
  const auto begin0 = [&](int g) { multiply<F, Wide, 0>(w + (size_t)g * stride, q + (size_t)g * step); };
  const auto begin1 = [&](int g) { multiply<F, Wide, 1>(w + (size_t)g * stride, q + (size_t)g * step); };
  const auto add = [&](int g) __attribute__((always_inline)) {
    add_group<F, split, Tokens>(products[g & 1], scales + (size_t)g * bytes, d + g * kBlockTokens, sum + g * kBlockTokens, acc);
  };
  int g = 0;
  begin0(0);
  store<split, 0>(products[0]);
  if (groups > 1) begin1(1);
  for (; g + 3 < groups; g += 2) {  // group g is stored and group g + 1 multiplied
    store<split, 1>(products[1]);
    begin0(g + 2);
    add(g);
    store<split, 0>(products[0]);
    begin1(g + 3);
    add(g + 1);
  }
  for (; g < groups; g++) {  // the last three at most
    if (g & 1) {
      if (g + 1 < groups) store<split, 0>(products[0]);
    } else {
      if (g + 1 < groups) store<split, 1>(products[1]);
      if (g + 2 < groups) begin0(g + 2);
    }
    add(g);
  }
#pragma GCC unroll 16
  for (int m = 0; m < Tokens; m++) f_store(out + m * out_stride, acc[m]);
}

template <Format F, bool Wide> static void gemm_width(const uint8_t* p, const QAct& a, int token, int count, float* out, size_t stride) {
  constexpr int most = kPanelBytes / Plan<F, Wide>::bytes;
  Panel panel;
  for (int g = 0, n; g < a.groups; g += n) {
    n = F == Format::q8s || a.groups - g < most ? a.groups - g : most;
    const uint8_t* from = p + (size_t)g * group_bytes(F);
    const uint8_t* w = widen<F, Wide>(from, n, panel);
    int t = 0;
    if (count > kSmall) configure(kBlockTokens);
    for (; count - t > kSmall; t += kBlockTokens) sum_groups<F, Wide, kBlockTokens>(w, from, a, token + t, g, n, out + t * stride, stride);
    if (t >= count) continue;
    configure(kSmall);
    sum_groups<F, Wide, kSmall>(w, from, a, token + t, g, n, out + t * stride, stride);
  }
}

template <Format F> static void gemm_format(const uint8_t* p, const QAct& a, int token, int count, float* out, size_t stride) {
  if (a.wide) gemm_width<F, true>(p, a, token, count, out, stride);
  else gemm_width<F, false>(p, a, token, count, out, stride);
}

static void gemm_tiles(Format f, const uint8_t* p, const QAct& a, int token, int count, float* out, size_t stride) {
  switch (f) {
    case Format::q4a: return gemm_format<Format::q4a>(p, a, token, count, out, stride);
    case Format::q4s: return gemm_format<Format::q4s>(p, a, token, count, out, stride);
    case Format::q5a: return gemm_format<Format::q5a>(p, a, token, count, out, stride);
    case Format::q5s: return gemm_format<Format::q5s>(p, a, token, count, out, stride);
    default: return gemm_format<Format::q8s>(p, a, token, count, out, stride);
  }
}

static void gemm(Format f, const uint8_t* p, const QAct& a, int token, int count, float* out, size_t stride) {
  const int last = count % kBlockTokens, few = last < kFewest ? last : 0, tiles = f == Format::q6s ? 0 : count - few;
  if (tiles) gemm_tiles(f, p, a, token, tiles, out, stride);
  if (count > tiles) kernels_avx512()->gemm(f, p, a, token + tiles, count - tiles, out + tiles * stride, stride);
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
