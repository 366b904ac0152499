// Paged attention over half-precision KV with an online softmax (Milakov & Gimelshein, arXiv 1805.02867), in base 2.
//
// A row's result depends only on its own query and pages: KV is always taken in tiles of 64 tokens that start at
// multiples of 64, and a fully masked tile leaves the running state bit for bit as it was. So decode, chunked prefill
// and whole prefill agree exactly.

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
      prefetch(v[p] + d * kPage);
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
                                               const float (*s)[kAttnTile], const float* fade, float* const* out) {
  VF acc[R][D];
  for (int r = 0; r < R; r++)
    for (int d = 0; d < D; d++) acc[r][d] = f_mul(f_load(out[r] + d0 + d * kLanes), f_set(fade[r]));
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

template <int R> static void attend_rows(const AttendCall& c, int r0) {
  const float* const* q = c.q + r0;
  float* const* out = c.out + r0;
  float(*s)[kAttnTile] = (float(*)[kAttnTile])c.scratch;
  int newest = c.last[r0], oldest = c.first[r0];
  float top[R], total[R], fade[R];
  for (int r = 0; r < R; r++) {
    if (c.last[r0 + r] > newest) newest = c.last[r0 + r];
    if (c.first[r0 + r] < oldest) oldest = c.first[r0 + r];
    top[r] = -1e30f;
    total[r] = 0;
    for (int d = 0; d < c.dim; d += kLanes) f_store(out[r] + d, f_zero());
  }
  const size_t head = (size_t)c.kv_head * c.dim * kPage;
  for (int t0 = oldest / kAttnTile * kAttnTile; t0 <= newest; t0 += kAttnTile) {
    const uint16_t *k[4], *v[4], *next[4];
    int pages = (newest - t0) / kPage + 1;
    if (pages > 4) pages = 4;
    for (int p = 0; p < 4; p++) {
      const size_t page = (size_t)c.table[t0 / kPage + (p < pages ? p : pages - 1)];
      k[p] = c.k + page * c.page_stride + head;
      v[p] = c.v + page * c.page_stride + head;
      const int ahead = t0 / kPage + 4 + p;
      next[p] = ahead <= newest / kPage ? c.k + (size_t)c.table[ahead] * c.page_stride + head : k[p];
    }
    if constexpr (R <= 2 && NV == 1) score_pages<R, 4>(k, v, c.dim, q, s, 0);
    else if constexpr (R <= 4 && NV == 1) {
      score_pages<R, 2>(k, v, c.dim, q, s, 0);
      if (pages > 2) score_pages<R, 2>(k + 2, v + 2, c.dim, q, s, 2);
    } else
      for (int p = 0; p < pages; p++) score_pages<R, 1>(k + p, v + p, c.dim, q, s, p);
    for (int r = 0; r < R; r++) {
      const int last = c.last[r0 + r] - t0, first = c.first[r0 + r] - t0, end = pages * kPage;
      for (int t = last < 0 ? 0 : last + 1; t < end; t++) s[r][t] = -__builtin_inff();
      for (int t = 0; t < first && t < end; t++) s[r][t] = -__builtin_inff();
      VF m = f_set(top[r]);
      for (int t = 0; t < end; t += kLanes) m = f_max(m, f_load(s[r] + t));
      const float peak = f_hmax(m);
      const VF high = f_set(peak);
      VF sum = f_zero();
      for (int t = 0; t < end; t += kLanes) {
        const VF e = exp2_(f_sub(f_load(s[r] + t), high));
        f_store(s[r] + t, e);
        sum = f_add(sum, e);
      }
      float lane[kLanes];
      f_store(lane, exp2_(f_set(top[r] - peak)));
      fade[r] = lane[0];
      total[r] = total[r] * fade[r] + f_hsum(sum);
      top[r] = peak;
    }
    int d = 0;
    if constexpr (R <= 4 && NV == 1)
      for (; d + 4 * kLanes <= c.dim; d += 4 * kLanes) mix_values<R, 4>(v, next, pages, c.dim, d, s, fade, out);
    for (; d < c.dim; d += 2 * kLanes) mix_values<R, 2>(v, next, pages, c.dim, d, s, fade, out);
  }
  for (int r = 0; r < R; r++) {
    const VF inverse = f_set(1.0f / total[r]);
    for (int d = 0; d < c.dim; d += kLanes) f_store(out[r] + d, f_mul(f_load(out[r] + d), inverse));
  }
}

static void attend(const AttendCall& c) {
  for (int r = 0; r < c.rows;) {
    const int left = c.rows - r, n = left < kMaxRows ? left : kMaxRows;
    switch (n) {
      case 1: attend_rows<1>(c, r); break;
      case 2: attend_rows<2>(c, r); break;
      case 3: attend_rows<kMaxRows < 3 ? 1 : 3>(c, r); break;
      case 4: attend_rows<kMaxRows < 4 ? 1 : 4>(c, r); break;
      case 5: attend_rows<kMaxRows < 5 ? 1 : 5>(c, r); break;
      case 6: attend_rows<kMaxRows < 6 ? 1 : 6>(c, r); break;
      case 7: attend_rows<kMaxRows < 7 ? 1 : 7>(c, r); break;
      default: attend_rows<kMaxRows < 8 ? 1 : 8>(c, r); break;
    }
    r += n;
  }
}
