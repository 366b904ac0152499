// One group of packed weights as unsigned bytes: w[j] holds columns 4j .. 4j+3 of the rows of vector h.

constexpr int NV = kTileRows / kLanes;  // vectors that cover a tile's rows

template <Format F> static inline void expand(const uint8_t* p, int h, VI (&w)[8]) {
  const int at = h * kLanes * 4;
  if constexpr (F == Format::q8s) {
    for (int j = 0; j < 8; j++) w[j] = i_load(p + 64 * j + at);
  } else {
    const VI low = b_set(15);
    for (int j = 0; j < 4; j++) {
      VI x = i_load(p + 64 * j + at);
      w[j] = b_and(x, low);
      w[j + 4] = b_and(w_shr<4>(x), low);
    }
    if constexpr (F == Format::q5a || F == Format::q5s)
      for (int j = 0; j < 8; j++) w[j] = b_plus16(w[j], p + 256 + 8 * j + at / 8);
    if constexpr (F == Format::q6s)
      for (int i = 0; i < 2; i++) {
        VI x = i_load(p + 256 + 64 * i + at);
        w[4 * i] = b_or(w[4 * i], w_shl<4>(b_and(x, b_set(0x03))));
        w[4 * i + 1] = b_or(w[4 * i + 1], w_shl<2>(b_and(x, b_set(0x0c))));
        w[4 * i + 2] = b_or(w[4 * i + 2], b_and(x, b_set(0x30)));
        w[4 * i + 3] = b_or(w[4 * i + 3], w_shr<2>(b_and(x, b_set((int)0xc0))));
      }
  }
}
