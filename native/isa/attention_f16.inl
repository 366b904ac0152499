// Attention over halves: scores of R queries and sums of values in registers. Keys of a page are [dim][16], values [16][dim].

// Pages lie far apart, so the processor's own prefetching stops at each one's end: values are fetched while keys are
// used, and the next tile's keys while values are.
template <int R, int P>
static void score_pages(const uint16_t* const* k, const uint16_t* const* v, int dim, const float* const* q, float (*s)[kAttnTile], int at) {
  VF acc[P][NV][R];
  for (int p = 0; p < P; p++)
    for (int h = 0; h < NV; h++)
      for (int r = 0; r < R; r++) acc[p][h][r] = f_zero();
  for (int d = 0; d < dim; d++)
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) {
      if (!(d & 1)) prefetch(v[p] + d * kPage);
#pragma GCC unroll 4
      for (int h = 0; h < NV; h++) {
        const VF x = f_load16(k[p] + d * kPage + h * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) acc[p][h][r] = f_fma(x, f_set(q[r][d]), acc[p][h][r]);
      }
    }
  for (int p = 0; p < P; p++)
    for (int h = 0; h < NV; h++)
      for (int r = 0; r < R; r++) f_store(s[r] + (at + p) * kPage + h * kLanes, acc[p][h][r]);
}

template <int R, int D> static void mix_values(const uint16_t* const* v, const uint16_t* const* next, int pages, int dim, int d0,
                                               const float (*s)[kAttnTile], const VF* fade, float* const* out) {
  VF acc[R][D];
  for (int r = 0; r < R; r++)
    for (int d = 0; d < D; d++) acc[r][d] = f_mul(f_load(out[r] + d0 + d * kLanes), fade[r]);
  for (int p = 0; p < pages; p++)
    for (int t = 0; t < kPage; t++) {
      const uint16_t* row = v[p] + t * dim + d0;
      for (int d = 0; d < D * kLanes; d += 32) prefetch(next[p] + t * dim + d0 + d);
#pragma GCC unroll 4
      for (int d = 0; d < D; d++) {
        const VF x = f_load16(row + d * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) acc[r][d] = f_fma(x, f_set(s[r][p * kPage + t]), acc[r][d]);
      }
    }
  for (int r = 0; r < R; r++)
    for (int d = 0; d < D; d++) f_store(out[r] + d0 + d * kLanes, acc[r][d]);
}

template <int R> static void score_tile(const float* const* q, const uint8_t* const* page, int pages, int dim, float (*s)[kAttnTile]) {
  const uint16_t *k[4], *v[4];
  for (int p = 0; p < 4; p++) {
    k[p] = (const uint16_t*)page[p];
    v[p] = k[p] + dim * kPage;
  }
  if constexpr (R <= 4 && NV == 1) score_pages<R, 4>(k, v, dim, q, s, 0);
  else if constexpr (NV == 1) {
    score_pages<R, 2>(k, v, dim, q, s, 0);
    if (pages > 2) score_pages<R, 2>(k + 2, v + 2, dim, q, s, 2);
  } else
    for (int p = 0; p < pages; p++) score_pages<R, 1>(k + p, v + p, dim, q, s, p);
}

template <int R>
static void mix_tile(const float (*s)[kAttnTile], const uint8_t* const* page, const uint8_t* const* next, int pages, int dim, const VF* fade,
                     float* const* out) {
  const uint16_t *v[4], *then[4];
  for (int p = 0; p < 4; p++) {
    v[p] = (const uint16_t*)page[p] + dim * kPage;
    then[p] = (const uint16_t*)next[p];
  }
  int d = 0;
  if constexpr (R <= 4 && NV == 1)
    for (; d + 4 * kLanes <= dim; d += 4 * kLanes) mix_values<R, 4>(v, then, pages, dim, d, s, fade, out);
  for (; d < dim; d += 2 * kLanes) mix_values<R, 2>(v, then, pages, dim, d, s, fade, out);
}
