// Loops over one row of logits. Included by the files that choose the instruction set, see simd.h.

// Elements whose largest is found before their exponentials are added: they stay in the first-level cache between.
constexpr int64_t kChunk = 2048;
// Elements that are added in float, 32 in a lane; these sums are added in double.
constexpr int64_t kRun = 32 * kLanes;
constexpr int64_t kStep = kWide * kLanes;

template <Float kType>
static float largest_of(const void* x, int64_t begin, int64_t end) {
  // NaN is passed over here and comes back through its exponential.
  Wide most;
  for (int v = 0; v < kWide; ++v) most.v[v] = broadcast(-kInfinity);
  int64_t i = begin;
  for (; i + kStep <= end; i += kStep) {
    const Wide value = load_wide<kType, kType == Float::kBf16>(x, i);
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v) most.v[v] = larger(value.v[v], most.v[v]);
  }
  for (; i + kLanes <= end; i += kLanes) most.v[0] = larger(load<kType>(x, i), most.v[0]);
  for (int v = 1; v < kWide; ++v) most.v[0] = larger(most.v[v], most.v[0]);
  float result = largest_of_lanes(most.v[0]);
  for (; i < end; ++i) {
    const float value = load<kType>(x, i, 1)[0];
    if (value > result) result = value;
  }
  return result;
}

// What e^(scale * (x - origin)) needs of its row.
struct Row {
  F32 origin;
  F32 scale;
  F32 scale_log2e;
  F32 lowest;  // x - origin below which the exponential is 0

  GRPO_INLINE Row of(float origin, float scale) {
    const float lowest = kLowestExponent / scale;  // never -inf, or x = -inf would not be below it
    return {broadcast(origin), broadcast(scale), broadcast(scale * kLog2E),
            broadcast(lowest > -3e38f ? lowest : -3e38f)};
  }
};

// e^(scale * offset), offset = x - origin. The product is never rounded by itself, so that the exponent is as exact
// as the offset.
template <class T>
GRPO_INLINE T exponential_of(const T& offset, const Row& row) {
  const T shifted = multiply_add(offset, row.scale_log2e, broadcast(kShifter));
  const T n = shifted - broadcast(kShifter);
  const T r = multiply_add(n, broadcast(-kLn2Low), multiply_add(offset, row.scale, n * broadcast(-kLn2High)));
  return times_power(exponential_of_remainder(r), shifted, n);
}

struct Sums {
  F32 sum;       // e^(scale * offset)
  F32 weighted;  // the same times offset
};

GRPO_INLINE void add(F32 p, F32 offset, Sums& sums) {
  sums.sum += p;
  sums.weighted = multiply_add(p, offset, sums.weighted);
}

template <Float kType>
GRPO_INLINE Sums exponentials_of(const void* x, int64_t begin, int64_t end, const Row& row) {
  Sums sums = {};
  int64_t i = begin;
  for (; i + kStep <= end; i += kStep) {
    const Wide offset = load_wide<kType, kType == Float::kBf16>(x, i) - row.origin;
    const Wide p = zero_below(row.lowest, offset, exponential_of(offset, row));
    const Wide finite = zero_below(row.lowest, offset, offset);  // 0 * -inf would be NaN
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v) add(p.v[v], finite.v[v], sums);
  }
  for (; i < end; i += kLanes) {
    const F32 value = i + kLanes <= end ? load<kType>(x, i) : load<kType>(x, i, static_cast<int>(end - i), -kInfinity);
    const F32 offset = value - row.origin;
    add(zero_below(row.lowest, offset, exponential_of(offset, row)), zero_below(row.lowest, offset, offset), sums);
  }
  return sums;
}

template <Float kType>
static SoftmaxStats softmax_stats_of(const void* x, int64_t n, float scale) {
  float max = -kInfinity;
  double sum = 0, weighted = 0;
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t end = n - begin < kChunk ? n : begin + kChunk;
    const float most = largest_of<kType>(x, begin, end);
    if (most > max) {
      if (max > -kInfinity) {
        const double shift = (static_cast<double>(max) - most) * scale;
        const double factor = exp(shift);
        weighted = factor * (weighted + shift * sum);
        sum *= factor;
      }
      max = most;
    }
    // While only -inf was seen: measured from 0, it adds 0, and a NaN still shows.
    const Row row = Row::of(max > -kInfinity ? max : 0.0f, scale);
    Doubles chunk_sum = {}, chunk_weighted = {};
    for (int64_t i = begin; i < end; i += kRun) {
      const Sums sums = exponentials_of<kType>(x, i, end - i < kRun ? end : i + kRun, row);
      add_float(chunk_sum, sums.sum);
      add_float(chunk_weighted, sums.weighted);
    }
    sum += sum_of_lanes(chunk_sum);
    weighted += scale * sum_of_lanes(chunk_weighted);
  }
  if (max == -kInfinity) sum = weighted = __builtin_nan("");
  return {max, sum, weighted};
}

static SoftmaxStats softmax_stats(const void* x, Float type, int64_t n, float scale) {
  if (type == Float::kF32) return softmax_stats_of<Float::kF32>(x, n, scale);
  if (type == Float::kBf16) return softmax_stats_of<Float::kBf16>(x, n, scale);
  return softmax_stats_of<Float::kF16>(x, n, scale);
}

// y = e^(scale * (x - max)) * (a + b * (x - max)): the constants of the row are folded into a and b. kCapped: times
// 1 - x^2, where x is the hyperbolic tangent of a logit.
template <bool kCapped, class T>
GRPO_INLINE T gradient_of(const T& x, const Row& row, F32 a, F32 b) {
  const T offset = x - row.origin;
  T y = exponential_of(offset, row) * multiply_add(offset, b, a);
  if (kCapped) y = y * multiply_add(x * broadcast(-1.0f), x, broadcast(1.0f));
  return zero_below(row.lowest, offset, y);
}

template <Float kType, Float kResult, bool kCapped = false>
static void softmax_gradient_of(const void* x, int64_t n, float scale, float max, float a, float b, void* y) {
  constexpr bool kPaired = kType == Float::kBf16 && kResult == Float::kBf16;
  const Row row = Row::of(max, scale);
  const F32 row_a = broadcast(a), row_b = broadcast(b);
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep)
    store_wide<kResult, kPaired>(y, i, gradient_of<kCapped>(load_wide<kType, kPaired>(x, i), row, row_a, row_b));
  for (; i + kLanes <= n; i += kLanes)
    store<kResult>(y, i, gradient_of<kCapped>(load<kType>(x, i), row, row_a, row_b));
  if (i == n) return;
  const int count = static_cast<int>(n - i);
  store<kResult>(y, i, gradient_of<kCapped>(load<kType>(x, i, count), row, row_a, row_b), count);
}

template <Float kType, bool kCapped = false>
static void softmax_gradient_from(const void* x, int64_t n, float scale, float max, float a, float b, void* y,
                                  Float y_type) {
  if (y_type == Float::kF32) return softmax_gradient_of<kType, Float::kF32, kCapped>(x, n, scale, max, a, b, y);
  if (y_type == Float::kBf16) return softmax_gradient_of<kType, Float::kBf16, kCapped>(x, n, scale, max, a, b, y);
  softmax_gradient_of<kType, Float::kF16, kCapped>(x, n, scale, max, a, b, y);
}

static void softmax_gradient(const void* x, Float type, int64_t n, float scale, float max, double log_sum, float a,
                             float b, double shift, bool capped, void* y, Float y_type) {
  // The factor exp(-log_sum) once per row, in double.
  const double inverse = exp(-log_sum);
  const float row_a = static_cast<float>(inverse * (a - b * shift));
  const float row_b = static_cast<float>(inverse * b * scale);
  if (capped) return softmax_gradient_from<Float::kF32, true>(x, n, scale, max, row_a, row_b, y, y_type);
  if (type == Float::kF32) return softmax_gradient_from<Float::kF32>(x, n, scale, max, row_a, row_b, y, y_type);
  if (type == Float::kBf16) return softmax_gradient_from<Float::kBf16>(x, n, scale, max, row_a, row_b, y, y_type);
  softmax_gradient_from<Float::kF16>(x, n, scale, max, row_a, row_b, y, y_type);
}

// What a soft-cap makes of a logit; -inf, which masks one, stays.
GRPO_INLINE F32 capped(F32 x, const Tangent& tangent) {
  return select(equal(x, broadcast(-kInfinity)), x, hyperbolic_tangent(x, tangent));
}

template <Float kType>
static void softcap_of(const void* x, int64_t n, double cap, float* y) {
  const Tangent tangent = tangent_over(cap);
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    Wide value = load_wide<kType, false>(x, i);
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v) value.v[v] = capped(value.v[v], tangent);
    store_wide<Float::kF32, false>(y, i, value);
  }
  for (; i + kLanes <= n; i += kLanes) store<Float::kF32>(y, i, capped(load<kType>(x, i), tangent));
  if (i == n) return;
  const int count = static_cast<int>(n - i);
  store<Float::kF32>(y, i, capped(load<kType>(x, i, count), tangent), count);
}

static void softcap(const void* x, Float type, int64_t n, double cap, float* y) {
  if (type == Float::kF32) return softcap_of<Float::kF32>(x, n, cap, y);
  if (type == Float::kBf16) return softcap_of<Float::kBf16>(x, n, cap, y);
  softcap_of<Float::kF16>(x, n, cap, y);
}

template <Float kType, Float kResult>
static void convert_of(const void* x, void* y, int64_t n) {
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) store_wide<kResult, false>(y, i, load_wide<kType, false>(x, i));
  for (; i + kLanes <= n; i += kLanes) store<kResult>(y, i, load<kType>(x, i));
  if (i == n) return;
  const int count = static_cast<int>(n - i);
  store<kResult>(y, i, load<kType>(x, i, count), count);
}

template <Float kType>
static void convert_from(const void* x, void* y, Float y_type, int64_t n) {
  if (y_type == Float::kF32) return convert_of<kType, Float::kF32>(x, y, n);
  if (y_type == Float::kBf16) return convert_of<kType, Float::kBf16>(x, y, n);
  convert_of<kType, Float::kF16>(x, y, n);
}

static void convert(const void* x, Float x_type, void* y, Float y_type, int64_t n) {
  if (n == 0) return;
  if (x_type == y_type) {
    __builtin_memcpy(y, x, n * size_of(x_type));
    return;
  }
  if (x_type == Float::kF32) return convert_from<Float::kF32>(x, y, y_type, n);
  if (x_type == Float::kBf16) return convert_from<Float::kBf16>(x, y, y_type, n);
  convert_from<Float::kF16>(x, y, y_type, n);
}
