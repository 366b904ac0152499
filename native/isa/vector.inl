// Vector kernels: quantising, norms, activations, half conversion and the passes of the sampler.

// 2^x. Range reduction to |f| <= 1/2, then the Taylor polynomial of degree 6: relative error below 2e-7.
static inline VF exp2_(VF x) {
  const VF low = f_set(-126.0f);
  const VF c = f_min(f_max(x, low), f_set(127.0f));
  const VF n = f_round(c);
  const VF f = f_sub(c, n);
  VF p = f_set(1.5403530e-4f);
  p = f_fma(p, f, f_set(1.3333558e-3f));
  p = f_fma(p, f, f_set(9.6181291e-3f));
  p = f_fma(p, f, f_set(5.5504109e-2f));
  p = f_fma(p, f, f_set(2.4022651e-1f));
  p = f_fma(p, f, f_set(6.9314718e-1f));
  p = f_fma(p, f, f_set(1.0f));
  return f_keep_ge(f_mul(p, f_exp2i(i_from(n))), x, low);
}

static inline VF sigmoid_(VF x) { return f_div(f_set(1.0f), f_add(f_set(1.0f), exp2_(f_mul(x, f_set(-1.44269504f))))); }

template <Activation A> static inline VF act_(VF x) {
  if constexpr (A == Activation::silu) return f_mul(x, sigmoid_(x));
  if constexpr (A == Activation::gelu_tanh) {  // 0.5 x (1 + tanh y) = x sigmoid(2 y)
    const VF y = f_mul(f_mul(x, f_fma(f_mul(x, x), f_set(0.044715f), f_set(1.0f))), f_set(2 * 0.7978845608f));
    return f_mul(x, sigmoid_(y));
  }
  float a[kLanes];
  f_store(a, x);
  for (int i = 0; i < kLanes; i++) a[i] = 0.5f * a[i] * (1.0f + __builtin_erff(a[i] * 0.70710678f));
  return f_load(a);
}

template <Activation A> static void act_all(const float* x, const float* up, int n, float* out) {
  for (int i = 0; i < n; i += kLanes) {
    VF y = act_<A>(f_load(x + i));
    f_store(out + i, up ? f_mul(y, f_load(up + i)) : y);
  }
}

static void gated(Activation a, const float* gate, const float* up, int n, float* out) {
  if (a == Activation::silu) act_all<Activation::silu>(gate, up, n, out);
  else if (a == Activation::gelu_tanh) act_all<Activation::gelu_tanh>(gate, up, n, out);
  else act_all<Activation::gelu_erf>(gate, up, n, out);
}

static void activate(Activation a, const float* x, int n, float* out) { gated(a, x, nullptr, n, out); }

static void add(const float* a, const float* b, int n, float* out) {
  for (int i = 0; i < n; i += kLanes) f_store(out + i, f_add(f_load(a + i), f_load(b + i)));
}

static void quantize(const float* x, const QAct& act, int token) {
  constexpr float most = 32639.0f;  // 256 * 127 + 127
  constexpr int vectors = QAct::kPair / kLanes, half = kGroup / 2;
  const int n = act.groups * kGroup;
  VI top = i_zero();  // bits of the largest magnitude: as integers, infinity and NaN are larger than any number
  for (int k = 0; k < n; k += kLanes) top = i_max(top, f_bits(f_abs(f_load(x + k))));
  const float peak = std::bit_cast<float>(i_hmax(top));
  act.d[token] = peak / most;
  const bool usable = peak > 1e-30f && peak < __builtin_inff();  // else zeros: d alone says what there was
  const VF scale = f_set(usable ? most / peak : 0.0f);
  int8_t* q = (int8_t*)act.bytes(token);
  int32_t* sum = (int32_t*)act.sums_of(token);
  int16_t* part = (int16_t*)act.parts_of(token);
  for (int pair = 0; pair < act.pairs(); pair++, q += QAct::kBytes, sum += 4 * kBlockTokens, part += 4 * kBlockTokens) {
    const int have = n - pair * QAct::kPair;  // columns from here on
    VI v[vectors];
    for (int k = 0; k < vectors; k++)
      v[k] = usable && k * kLanes < have ? i_from(f_mul(f_load(x + pair * QAct::kPair + k * kLanes), scale)) : i_zero();
    int32_t s[4];
    if constexpr (kPacksPairs) {
      pack_pair(v, q, q + QAct::kPlane, s);
    } else {
      for (int i = 0; i < 4; i++) {
        VI total = i_zero();
        for (int k = i * half / kLanes; k < (i + 1) * half / kLanes; k++) {
          const VI high = i_sar<8>(i_add(v[k], i_set(128)));
          i_store8(q + k * kLanes, high);
          i_store8(q + QAct::kPlane + k * kLanes, i_sub(v[k], i_shl<8>(high)));
          total = i_add(total, v[k]);
        }
        s[i] = i_hsum(total);
      }
    }
    for (int g = 0; g < 2; g++) {
      const int both = s[2 * g] + s[2 * g + 1];
      part[g] = (int16_t)(both >> 11);
      part[2 * kBlockTokens + g] = (int16_t)(both & 2047);
      if (g * kGroup >= have) break;
      sum[2 * g * kBlockTokens] = s[2 * g];
      sum[(2 * g + 1) * kBlockTokens] = s[2 * g + 1];
    }
  }
}

static void rms_norm(const float* x, const float* w, int n, float eps, float* out) {
  VF ss = f_zero();
  for (int i = 0; i < n; i += kLanes) {
    const VF v = f_load(x + i);
    ss = f_fma(v, v, ss);
  }
  const VF r = f_set(1.0f / __builtin_sqrtf(f_hsum(ss) / (float)n + eps));
  for (int i = 0; i < n; i += kLanes) f_store(out + i, f_mul(f_mul(f_load(x + i), r), f_load(w + i)));
}

static void layer_norm(const float* x, const float* w, const float* b, int n, float eps, float* out) {
  VF s = f_zero();
  for (int i = 0; i < n; i += kLanes) s = f_add(s, f_load(x + i));
  const VF mean = f_set(f_hsum(s) / (float)n);
  VF ss = f_zero();
  for (int i = 0; i < n; i += kLanes) {
    const VF v = f_sub(f_load(x + i), mean);
    ss = f_fma(v, v, ss);
  }
  const VF r = f_set(1.0f / __builtin_sqrtf(f_hsum(ss) / (float)n + eps));
  for (int i = 0; i < n; i += kLanes) {
    const VF v = f_mul(f_mul(f_sub(f_load(x + i), mean), r), f_load(w + i));
    f_store(out + i, b ? f_add(v, f_load(b + i)) : v);
  }
}

static void to_half(const float* x, int n, uint16_t* out) {
  const VF lo = f_set(-65504.0f), hi = f_set(65504.0f);
  for (int i = 0; i < n; i += kLanes) {
    VF v = f_load(x + i);
    const VF finite = f_min(f_max(v, lo), hi);
    f_store16(out + i, f_keep_ge(finite, f_mul(v, v), f_zero()));  // a comparison with NaN is false
  }
}

static bool peak(const float* x, int n, float* max, int* index) {
  VF top = f_set(-__builtin_inff()), poison = f_zero();
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const VF v = f_load(x + i);
    top = f_max(top, v);
    poison = f_fma(v, f_zero(), poison);
  }
  float best = f_hmax(top), bad = f_hsum(poison);
  for (; i < n; i++) {
    if (x[i] > best) best = x[i];
    bad += x[i] * 0.0f;
  }
  *max = best;
  if (bad != 0.0f || bad != bad) return false;
  i = 0;
  const VF below = f_set(__builtin_nextafterf(best, -__builtin_inff()));
  for (; i + kLanes <= n; i += kLanes)
    if (const uint32_t hit = f_mask_gt(f_load(x + i), below)) {
      *index = i + __builtin_ctz(hit);
      return true;
    }
  for (; i < n; i++)
    if (x[i] == best) break;
  *index = i;
  return true;
}

static double sum_exp(const float* x, int n, float max, float scale) {
  const VF m = f_set(max), k = f_set(scale * 1.44269504f);
  double total = 0;
  int i = 0;
  while (i + kLanes <= n) {  // float sums over short runs, doubles across them
    VF s = f_zero();
    for (int j = 0; j < 64 && i + kLanes <= n; j++, i += kLanes) s = f_add(s, exp2_(f_mul(f_sub(f_load(x + i), m), k)));
    total += f_hsum(s);
  }
  for (; i < n; i++) total += __builtin_expf((x[i] - max) * scale);
  return total;
}

static int above(const float* x, int n, float threshold, int* ids, int cap) {
  const VF t = f_set(threshold);
  int found = 0, i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (uint32_t hit = f_mask_gt(f_load(x + i), t); hit; hit &= hit - 1) {
      if (found < cap) ids[found] = i + __builtin_ctz(hit);
      found++;
    }
  for (; i < n; i++)
    if (x[i] > threshold) {
      if (found < cap) ids[found] = i;
      found++;
    }
  return found;
}
