// Paged attention with an online softmax (Milakov & Gimelshein, arXiv 1805.02867), in base 2.
//
// A row's result depends only on its own query and pages: KV is always taken in tiles of 64 positions that start at
// multiples of 64, tiles are summed up in chunks of 256 and chunks joined in rising order, and a fully masked tile or
// chunk leaves the running state as it was. So decode, chunked and whole prefill agree exactly, however the chunks of a
// sequence are shared out between threads.

constexpr float kNothing = -1e30f;  // the largest score where there is none

// 2^x for x <= 0, and 0 below -127 or for NaN. Adding `shift` rounds x to an integer that lies in the sum's lowest bits, from
// where it is moved into the exponent; the polynomial is within 3e-7 of 2^f for |f| <= 1/2.
static inline VF exp2_below(VF x) {
  const VF shift = f_set(0x1.8p23f);
  const VF c = f_max(x, f_set(-127.0f));
  const VF n = f_add(c, shift);
  const VF f = f_sub(c, f_sub(n, shift));
  VF p = f_set(1.3264727e-3f);
  p = f_fma(p, f, f_set(9.6715130e-3f));
  p = f_fma(p, f, f_set(5.5507336e-2f));
  p = f_fma(p, f, f_set(2.4022242e-1f));
  p = f_fma(p, f, f_set(6.9314700e-1f));
  p = f_fma(p, f, f_set(1.0f));
  return (VF)i_add((VI)p, i_shl<23>((VI)n));
}

template <KvType T, int R> struct Group;  // R rows that are worked on together

template <int R> struct Group<KvType::f16, R> {
  const float* q[R];
  Group(const AttendCall& c, int row) {
    for (int r = 0; r < R; r++) q[r] = c.q + (size_t)(row + r) * c.dim;
  }
  void score(const uint8_t* const* page, int pages, int dim, float (*s)[kAttnTile]) const { score_tile<R>(q, page, pages, dim, s); }
  void mix(const uint8_t* const* page, const uint8_t* const* next, int pages, int dim, float (*s)[kAttnTile], const VF* fade, float* const* out) {
    mix_tile<R>(s, page, next, pages, dim, fade, out);
  }
};

template <int R> struct Group<KvType::int8, R> {
  Rounded<R> rounded;
  Group(const AttendCall& c, int row) {
    for (int r = 0; r < R; r++) round_query(rounded, r, c.q + (size_t)(row + r) * c.dim, c.dim);
  }
  void score(const uint8_t* const* page, int pages, int dim, float (*s)[kAttnTile]) const { score_tile<R>(rounded, page, pages, dim, s); }
  void mix(const uint8_t* const* page, const uint8_t* const* next, int pages, int dim, float (*s)[kAttnTile], const VF* fade, float* const* out) {
    for (int r = 0; r < R; r++) round_weights(rounded, r, page, pages, dim, s[r]);
    mix_tile<R>(rounded, page, next, pages, dim, fade, out);
  }
};

// The partial results of positions begin .. end-1, which lie in one chunk, for rows from `row` on.
template <KvType T, int R> static void attend_chunk(const AttendCall& c, Group<T, R>& group, int row, int begin, int end, float* const* out) {
  alignas(64) float s[R][kAttnTile];
  float top[R];
  VF total[R], fade[R];
  for (int r = 0; r < R; r++) {
    top[r] = kNothing;
    total[r] = f_zero();
    for (int d = 0; d < c.dim; d += kLanes) f_store(out[r] + d, f_zero());
  }
  const int final_page = (c.end - 1) / kPage;
  for (int t0 = begin; t0 < end; t0 += kAttnTile) {
    const uint8_t *page[4], *next[4];
    const int from = t0 / kPage;
    int pages = (end - 1) / kPage - from + 1;
    if (pages > 4) pages = 4;
    for (int p = 0; p < 4; p++) {
      page[p] = c.pages + (size_t)c.table[from + (p < pages ? p : pages - 1)] * c.page_stride;
      const int ahead = from + 4 + p;
      next[p] = ahead <= final_page ? c.pages + (size_t)c.table[ahead] * c.page_stride : page[p];
    }
    group.score(page, pages, c.dim, s);
    for (int r = 0; r < R; r++) {
      const int last = c.last[row + r] - t0, first = c.first[row + r] - t0, stop = pages * kPage;
      for (int t = last < 0 ? 0 : last + 1; t < stop; t++) s[r][t] = -__builtin_inff();
      for (int t = 0; t < first && t < stop; t++) s[r][t] = -__builtin_inff();
      VF m = f_set(top[r]);
      for (int t = 0; t < stop; t += kLanes) m = f_max(m, f_load(s[r] + t));
      const float peak = f_hmax(m);
      const VF high = f_set(peak);
      VF sum = f_zero();
      for (int t = 0; t < stop; t += kLanes) {
        const VF e = exp2_below(f_sub(f_load(s[r] + t), high));
        f_store(s[r] + t, e);
        sum = f_add(sum, e);
      }
      fade[r] = exp2_below(f_set(top[r] - peak));
      total[r] = f_fma(total[r], fade[r], sum);
      top[r] = peak;
    }
    group.mix(page, next, pages, c.dim, s, fade, out);
  }
  for (int r = 0; r < R; r++) {
    out[r][c.dim] = top[r];
    out[r][c.dim + 1] = f_hsum(total[r]);
  }
}

// Not inlined, so that there is one way of rounding its sums.
__attribute__((noinline)) static void join_row(float* into, const float* later, int dim) {
  const float top = into[dim] > later[dim] ? into[dim] : later[dim];
  const VF a = exp2_below(f_set(into[dim] - top)), b = exp2_below(f_set(later[dim] - top));
  for (int d = 0; d < dim; d += kLanes) f_store(into + d, f_fma(f_load(later + d), b, f_mul(f_load(into + d), a)));
  float total[kLanes];
  f_store(total, f_fma(f_set(later[dim + 1]), b, f_mul(f_set(into[dim + 1]), a)));
  into[dim] = top;
  into[dim + 1] = total[0];
}

static void finish_row(const float* part, int dim, float* out) {
  const VF inverse = f_set(1.0f / part[dim + 1]);
  for (int d = 0; d < dim; d += kLanes) f_store(out + d, f_mul(f_load(part + d), inverse));
}

template <KvType T, int R> static void attend_rows(const AttendCall& c, int row) {
  alignas(64) float all[R][kMaxHeadDim + kAttnExtra], chunk[R][kMaxHeadDim + kAttnExtra];
  const int stride = c.dim + kAttnExtra;
  int newest = 0, oldest = c.first[row];
  for (int r = 0; r < R; r++) {
    if (c.last[row + r] > newest) newest = c.last[row + r];
    if (c.first[row + r] < oldest) oldest = c.first[row + r];
  }
  Group<T, R> group(c, row);
  bool started = false;
  for (int begin = c.begin; begin < c.end; begin += kAttnChunk) {
    const int stop = begin + kAttnChunk < c.end ? begin + kAttnChunk : c.end;
    const int from = oldest > begin ? oldest / kAttnTile * kAttnTile : begin, to = newest < stop ? newest + 1 : stop;
    if (!c.apart && from >= to) continue;
    float* out[R];
    for (int r = 0; r < R; r++)
      out[r] = c.apart ? c.out + ((size_t)(begin - c.begin) / kAttnChunk * c.rows + row + r) * stride : started ? chunk[r] : all[r];
    attend_chunk<T, R>(c, group, row, from, to, out);
    if (!c.apart && started)
      for (int r = 0; r < R; r++) join_row(all[r], chunk[r], c.dim);
    started = true;
  }
  if (!c.apart)
    for (int r = 0; r < R; r++) finish_row(all[r], c.dim, c.out + (size_t)(row + r) * c.dim);
}

template <KvType T> static void attend_type(const AttendCall& c) {
  for (int r = 0; r < c.rows;) {
    const int left = c.rows - r, n = left < kMaxRows ? left : kMaxRows;
    switch (n) {
      case 1: attend_rows<T, 1>(c, r); break;
      case 2: attend_rows<T, 2>(c, r); break;
      case 3: attend_rows<T, kMaxRows < 3 ? 1 : 3>(c, r); break;
      case 4: attend_rows<T, kMaxRows < 4 ? 1 : 4>(c, r); break;
      case 5: attend_rows<T, kMaxRows < 5 ? 1 : 5>(c, r); break;
      case 6: attend_rows<T, kMaxRows < 6 ? 1 : 6>(c, r); break;
      case 7: attend_rows<T, kMaxRows < 7 ? 1 : 7>(c, r); break;
      default: attend_rows<T, kMaxRows < 8 ? 1 : 8>(c, r); break;
    }
    r += n;
  }
}

static void attend(const AttendCall& c) {
  if (c.type == KvType::f16) attend_type<KvType::f16>(c);
  else attend_type<KvType::int8>(c);
}

static void join(float* parts, int chunks, int rows, int dim, float* out) {
  const int stride = dim + kAttnExtra;
  for (int r = 0; r < rows; r++) {
    float* all = parts + (size_t)r * stride;
    for (int i = 1; i < chunks; i++) join_row(all, all + (size_t)i * rows * stride, dim);
    finish_row(all, dim, out + (size_t)r * dim);
  }
}
