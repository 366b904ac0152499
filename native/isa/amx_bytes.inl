// Weights of 8 bits: a group's 32 bytes by the tokens' high and low bytes, then its scale. The integers are exact, and the
// float operations for one token are those of gemm.inl in the same order.

struct alignas(64) Products {
  int32_t high[kBlockTokens][16], low[kBlockTokens][16];
};

// One group by 16 tokens, into the tiles of one of two slots.
template <int Slot> static inline void multiply_group(const uint8_t* w, const int8_t* q) {
  for (int b = 0; b < group_bytes(Format::q8s); b += 64) prefetch(w + 4096 + b);
  _tile_loadd(1, w, 64);
  _tile_loadd(0, q, QAct::kPair);
  if constexpr (Slot == 0) {
    _tile_zero(2);
    _tile_dpbsud(2, 0, 1);
  } else {
    _tile_zero(4);
    _tile_dpbsud(4, 0, 1);
  }
  _tile_loadd(0, q + QAct::kPlane, QAct::kPair);
  if constexpr (Slot == 0) {
    _tile_zero(3);
    _tile_dpbsud(3, 0, 1);
  } else {
    _tile_zero(5);
    _tile_dpbsud(5, 0, 1);
  }
}

template <int Slot> static inline void store_group(Products& out) {
  if constexpr (Slot == 0) {
    _tile_stored(2, out.high, 64);
    _tile_stored(3, out.low, 64);
  } else {
    _tile_stored(4, out.high, 64);
    _tile_stored(5, out.low, 64);
  }
  asm volatile("" : : : "memory");  // tile stores do not tell the compiler that they write memory
}

// One group's products, scaled, into the tokens' sums. Inlined by force: the sums must stay in registers.
template <int Tokens>
[[gnu::always_inline]] static inline void add_group(const Products& x, const uint8_t* scales, const int32_t* sums, VF (&acc)[Tokens]) {
  const VF s = f_load16((const uint16_t*)scales);
#pragma GCC unroll 16
  for (int m = 0; m < Tokens; m++) {
    const VI first = i_set(-zero_of(Format::q8s) * (sums[m] + sums[kBlockTokens + m]));
    const VI total = i_add(i_add(i_shl<8>(i_load(x.high[m])), i_load(x.low[m])), first);
    acc[m] = f_fma(i_float(total), s, acc[m]);
  }
}

// Three groups are in flight: one is multiplied, the one before is stored, the one before that is scaled and summed,
// because the tile unit and its stores have long latencies.
template <int Tokens> static void bytes_block(const uint8_t* p, const QAct& act, int token, int tokens, float* out, size_t out_stride) {
  constexpr int bytes = group_bytes(Format::q8s);
  const int groups = act.groups;
  const int8_t* q = act.bytes(token);
  const int32_t* sums = act.sums_of(token);
  Products products[2];
  VF acc[Tokens];
#pragma GCC unroll 16
  for (int m = 0; m < Tokens; m++) acc[m] = f_zero();
  const auto cell = [&](int g) { return q + g / 2 * QAct::kBytes + g % 2 * kGroup; };
  const auto begin0 = [&](int g) { multiply_group<0>(p + (size_t)g * bytes, cell(g)); };
  const auto begin1 = [&](int g) { multiply_group<1>(p + (size_t)g * bytes, cell(g)); };
  const auto add = [&](int g) __attribute__((always_inline)) {
    add_group<Tokens>(products[g & 1], p + (size_t)g * bytes + integer_bytes(Format::q8s), sums + g * 2 * kBlockTokens, acc);
  };
  int g = 0;
  begin0(0);
  store_group<0>(products[0]);
  if (groups > 1) begin1(1);
  for (; g + 3 < groups; g += 2) {  // group g is stored and group g + 1 multiplied
    store_group<1>(products[1]);
    begin0(g + 2);
    add(g);
    store_group<0>(products[0]);
    begin1(g + 3);
    add(g + 1);
  }
  for (; g < groups; g++) {  // the last three at most
    if (g & 1) {
      if (g + 1 < groups) store_group<0>(products[0]);
    } else {
      if (g + 1 < groups) store_group<1>(products[1]);
      if (g + 2 < groups) begin0(g + 2);
    }
    add(g);
  }
#pragma GCC unroll 16
  for (int m = 0; m < Tokens; m++)
    if (m < tokens) f_store(out + m * out_stride, f_mul(acc[m], f_set(act.d[token + m])));
}

static void bytes_gemm(const uint8_t* p, int tiles, const QAct& a, int token, int count, float* out, size_t stride) {
  const size_t bytes = quantized_tile_bytes(Format::q8s, a.groups * kGroup);
  configure(count > kSmall ? kBlockTokens : kSmall, kGroup);
  for (int i = 0; i < tiles; i++, p += bytes, out += kTileRows)
    for (int t = 0; t < count; t += kBlockTokens) {
      const int tokens = count - t < kBlockTokens ? count - t : kBlockTokens;
      if (count > kSmall) bytes_block<kBlockTokens>(p, a, token + t, tokens, out + (size_t)t * stride, stride);
      else bytes_block<kSmall>(p, a, token + t, tokens, out + (size_t)t * stride, stride);
    }
}
