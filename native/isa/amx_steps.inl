// Weights of up to 6 bits, as integers of 16 bits: w = step * q - offset = 256 * high + low, low unsigned. With the tokens' two bytes that
// makes four products of bytes, in three sums: 65536 * high high + 256 * (high low + low high) + low low.

constexpr int kPair = QAct::kPair, kPlane = QAct::kPlane, kPairBytes = QAct::kBytes;

// Makes what the tile unit takes of one tile after another, a pair of groups at a time, in eight pieces each, so that the
// pieces can be strewn between multiplications. A group that is not there is zero.
template <Format F> struct Widener {
  const uint8_t *p, *offsets;
  int groups, pairs, pair = 0;  // pair: the next one, in its tile
  VI first, second, offset;
  VI nibbles = b_set(15), upper = _mm512_set1_epi16((short)0xff00), zero = _mm512_set1_epi16((short)zero_of(F));
  // steps lie as rows 0, 2 .. 14, 1, 3 .. 15; each is wanted twice, for even and odd columns
  VI of_row = _mm512_setr_epi32(0x00000, 0x80008, 0x10001, 0x90009, 0x20002, 0xa000a, 0x30003, 0xb000b, 0x40004, 0xc000c, 0x50005,
                                0xd000d, 0x60006, 0xe000e, 0x70007, 0xf000f);

  Widener(const uint8_t* tile, int n) : p(tile), offsets(tile + (size_t)n * group_bytes(F)), groups(n), pairs((n + 1) / 2) {
    asm("" : "+v"(nibbles), "+v"(upper), "+v"(zero), "+v"(of_row));  // to be kept, not made anew each time
  }

  [[gnu::always_inline]] inline void group(int which) {
    for (int b = 0; b < group_bytes(F); b += 64) prefetch(p + 4096 + b);
    const uint8_t* steps = p + integer_bytes(F);
    first = second = _mm512_permutexvar_epi16(of_row, _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)steps)));
    if constexpr (F == Format::q6s)
      second = _mm512_permutexvar_epi16(of_row, _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)(steps + 32))));
    if constexpr (is_affine(F)) {
      const VI both = i_load(offsets);
      const VI own = which ? _mm512_srli_epi32(both, 16) : _mm512_and_si512(both, _mm512_set1_epi32(0xffff));
      offset = b_or(own, _mm512_slli_epi32(own, 16));
    }
  }

  [[gnu::always_inline]] inline void put(VI x, VI step, uint8_t* to) const {
    VI even = _mm512_andnot_si512(upper, x), odd = _mm512_srli_epi16(x, 8);
    if constexpr (!is_affine(F)) {
      even = _mm512_sub_epi16(even, zero);
      odd = _mm512_sub_epi16(odd, zero);
    }
    even = _mm512_mullo_epi16(even, step);
    odd = _mm512_mullo_epi16(odd, step);
    if constexpr (is_affine(F)) {
      even = _mm512_sub_epi16(even, offset);
      odd = _mm512_sub_epi16(odd, offset);
    }
    _mm512_store_si512(to, _mm512_ternarylogic_epi32(_mm512_srli_epi16(even, 8), odd, upper, 0xf8));  // a | b & c
    _mm512_store_si512(to + kPlane, _mm512_ternarylogic_epi32(_mm512_slli_epi16(odd, 8), even, upper, 0xf4));  // a | b & ~c
  }

  // Piece i of 8: vectors i and i + 4 of the first group, or i - 4 and i of the second.
  [[gnu::always_inline]] inline void piece(int i, uint8_t* to) {
    const int v = i % 4;
    to += i / 4 * (kPlane / 2) + 64 * v;
    if (i >= 4 && 2 * pair + 1 >= groups) {
      for (int at = 0; at <= 256; at += 256) {
        _mm512_store_si512(to + at, i_zero());
        _mm512_store_si512(to + at + kPlane, i_zero());
      }
    } else {
      if (v == 0) group(i / 4);
      const VI x = i_load(p + 64 * v);
      VI low = b_and(x, nibbles), high = b_and(w_shr<4>(x), nibbles);
      if constexpr (bits_of(F) == 5) {
        low = b_plus16(low, p + 256 + 8 * v);
        high = b_plus16(high, p + 256 + 8 * (v + 4));
      }
      if constexpr (bits_of(F) == 6) {
        const int left = 4 - 2 * v;
        const VI bits = b_set(3 << (2 * v));
        const auto fifth_up = [&](int at) {
          const VI y = b_and(i_load(p + at), bits);
          return left >= 0 ? _mm512_slli_epi16(y, left) : _mm512_srli_epi16(y, -left);
        };
        low = b_or(low, fifth_up(256));
        high = b_or(high, fifth_up(320));
      }
      put(low, first, to);
      put(high, second, to + 256);
      if (v == 3) p += group_bytes(F);
    }
    if (i == 7) {
      offsets += 64;
      if (++pair == pairs) {  // on to the next tile
        pair = 0;
        p += quantized_tile_bytes(F, 0) + (is_affine(F) ? (size_t)pairs * 64 : 0);
        offsets = p + (size_t)groups * group_bytes(F);
      }
    }
    asm volatile("" : : : "memory");  // tile loads do not tell the compiler that they read memory
  }
};

// 64 columns of one block of tokens. The middle products have two sums, 3 and 5, because one alone would wait for itself.
// aside(i) is called after each multiplication.
template <typename Aside> [[gnu::always_inline]] static inline void multiply_one(const uint8_t* w, const int8_t* q, const Aside& aside) {
  _tile_loadd(1, w, kPair);
  _tile_loadd(0, q, kPair);
  _tile_loadd(6, q + kPlane, kPair);
  _tile_dpbssd(2, 0, 1);
  aside(0);
  _tile_dpbssd(3, 6, 1);
  _tile_loadd(7, w + kPlane, kPair);
  aside(1);
  _tile_dpbsud(5, 0, 7);
  aside(2);
  _tile_dpbsud(4, 6, 7);
  aside(3);
}

// The same of two blocks, the second's sums in 5, 6 and 7: three sums a block are enough here, because four multiplications
// lie between two that add to the same one. `second`: bytes from a block to the next.
template <typename Aside>
[[gnu::always_inline]] static inline void multiply_two(const uint8_t* w, const int8_t* q, size_t second, const Aside& aside) {
  _tile_loadd(1, w, kPair);
  _tile_loadd(0, q + kPlane, kPair);
  _tile_dpbssd(3, 0, 1);
  aside(0);
  _tile_loadd(0, q + second + kPlane, kPair);
  _tile_dpbssd(6, 0, 1);
  aside(1);
  _tile_loadd(0, q + second, kPair);
  _tile_dpbssd(5, 0, 1);
  aside(2);
  _tile_loadd(0, q, kPair);
  _tile_dpbssd(2, 0, 1);
  aside(3);
  _tile_loadd(1, w + kPlane, kPair);
  _tile_dpbsud(3, 0, 1);
  aside(4);
  _tile_loadd(0, q + second, kPair);
  _tile_dpbsud(6, 0, 1);
  aside(5);
  _tile_loadd(0, q + second + kPlane, kPair);
  _tile_dpbsud(7, 0, 1);
  aside(6);
  _tile_loadd(0, q + kPlane, kPair);
  _tile_dpbsud(4, 0, 1);
  aside(7);
}

// Sums of one block as floats: the total's upper bits times 65536 plus its lowest 16, as l_float of gemm.inl has it. What
// tiles are stored to is small, because it takes the place of weights and tokens in the first-level cache.
template <bool Second, bool Other> static inline void finish(VF units, const float* d, int tokens, float* out, size_t stride) {
  struct alignas(64) {
    int32_t x[kBlockTokens][16], y[kBlockTokens][16];
  } s;
  // Tile stores do not tell the compiler that they write memory.
  const auto stored = [&] __attribute__((always_inline)) () { asm volatile("" : : "r"(&s) : "memory"); };
  VI upper[kBlockTokens], lower[kBlockTokens];
  if constexpr (Second) {
    _tile_stored(7, s.x, 64);
    _tile_stored(6, s.y, 64);
  } else {
    _tile_stored(4, s.x, 64);
    _tile_stored(3, s.y, 64);
  }
  stored();
#pragma GCC unroll 16
  for (int m = 0; m < kBlockTokens; m++) {
    lower[m] = i_load(s.x[m]);
    upper[m] = i_load(s.y[m]);
  }
  if constexpr (Other) {
    stored();
    _tile_stored(5, s.y, 64);
    stored();
#pragma GCC unroll 16
    for (int m = 0; m < kBlockTokens; m++) upper[m] = i_add(upper[m], i_load(s.y[m]));
  }
#pragma GCC unroll 16
  for (int m = 0; m < kBlockTokens; m++) {
    const VI low = lower[m], middle = upper[m];
    lower[m] = b_and(i_add(low, i_shl<8>(middle)), i_set(65535));
    upper[m] = i_sar<8>(i_add(middle, i_sar<8>(low)));
  }
  stored();
  if constexpr (Second) _tile_stored(5, s.x, 64);
  else _tile_stored(2, s.x, 64);
  stored();
#pragma GCC unroll 16
  for (int m = 0; m < kBlockTokens; m++) {
    if (m >= tokens) break;
    const VF x = f_fma(i_float(i_add(i_load(s.x[m]), upper[m])), f_set(65536.0f), i_float(lower[m]));
    f_store(out + m * stride, f_mul(f_mul(x, units), f_set(d[m])));
  }
}

// Up to two blocks of tokens. What was just stored loads slowly: pairs are widened two ahead, over the end of a tile too.
template <Format F> static void steps_blocks(const uint8_t* p, int tiles, const QAct& a, int token, int count, float* out, size_t stride) {
  constexpr int ahead = 2;
  alignas(64) static thread_local uint8_t memory[2 * ahead * kPairBytes];
  const auto next = [&](uint8_t* at) { return at + kPairBytes == memory + sizeof memory ? memory : at + kPairBytes; };
  const int pairs = a.pairs();
  const bool two = count > kBlockTokens;
  const size_t second = (size_t)pairs * kPairBytes;
  configure(count > kSmall ? kBlockTokens : kSmall, kPair);
  Widener<F> widener(p, a.groups);
  uint8_t *to = memory, *w = memory;
  int left = tiles * pairs;  // pairs to widen
  for (int i = 0; i < ahead && left > 0; i++, left--, to = next(to))
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) widener.piece(j, to);
  for (int i = 0; i < tiles; i++, out += kTileRows) {
    p += quantized_tile_bytes(F, a.groups * kGroup);
    const VF units = f_load((const float*)p - kTileRows);
    const float* d = a.d + token;
    const int8_t* q = a.bytes(token);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    if (two) {
      _tile_zero(6);
      _tile_zero(7);
    }
    for (int pair = 0; pair < pairs; pair++, w = next(w), q += kPairBytes) {
      if (left == 0) {
        if (two) multiply_two(w, q, second, [](int) {});
        else multiply_one(w, q, [](int) {});
        continue;
      }
      if (two)
        multiply_two(w, q, second, [&](int j) __attribute__((always_inline)) { widener.piece(j, to); });
      else
        multiply_one(w, q, [&](int j) __attribute__((always_inline)) {
          widener.piece(2 * j, to);
          widener.piece(2 * j + 1, to);
        });
      to = next(to);
      left--;
    }
    if (two) {
      finish<false, false>(units, d, kBlockTokens, out, stride);
      finish<true, false>(units, d + kBlockTokens, count - kBlockTokens, out + kBlockTokens * stride, stride);
    } else {
      finish<false, true>(units, d, count, out, stride);
    }
  }
}

// Weights are widened anew for every two blocks. Keeping them is no quicker: they would fill the first-level cache.
template <Format F> static void steps_gemm(const uint8_t* p, int tiles, const QAct& a, int token, int count, float* out, size_t stride) {
  constexpr int most = 2 * kBlockTokens;
  for (int t = 0; t < count; t += most)
    steps_blocks<F>(p, tiles, a, token + t, count - t < most ? count - t : most, out + (size_t)t * stride, stride);
}
