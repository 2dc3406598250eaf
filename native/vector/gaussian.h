// Sums over a row of a Gaussian policy. Included by the files that choose the instruction set, see simd.h.

GRPO_INLINE F64 load_doubles(const float* x) { return __builtin_convertvector(load_vector<HalfF32>(x), F64); }

template <bool kWithOld>
static GaussianSums gaussian_sums_of(const float* x, const float* mean, const float* old_mean, int64_t n) {
  constexpr int kHalf = kLanes / 2;
  F64 squares[2] = {}, products[2] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const int64_t at = i + half * kHalf;
      const F64 value = load_doubles(x + at), center = load_doubles(mean + at), off = value - center;
      squares[half] += off * off;
      if constexpr (kWithOld) {
        const F64 old = load_doubles(old_mean + at);
        products[half] += (value - old) * (center - old);
      }
    }
  }
  GaussianSums sums = {sum_of_lanes({squares[0], squares[1]}), sum_of_lanes({products[0], products[1]})};
  for (; i < n; ++i) {
    const double value = x[i], center = mean[i];
    sums.squares += (value - center) * (value - center);
    if constexpr (kWithOld) sums.products += (value - old_mean[i]) * (center - old_mean[i]);
  }
  return sums;
}

static GaussianSums gaussian_sums(const float* x, const float* mean, const float* old_mean, int64_t n) {
  return old_mean == nullptr ? gaussian_sums_of<false>(x, mean, old_mean, n)
                             : gaussian_sums_of<true>(x, mean, old_mean, n);
}
