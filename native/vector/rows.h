// Loops over one row of logits. Included by the files that choose the instruction set, see simd.h.

// Elements whose largest is found before their exponentials are added: they stay in the first-level cache between.
constexpr int64_t kChunk = 2048;
// Elements that are added in float, 32 in a lane; these sums are added in double.
constexpr int64_t kRun = 32 * kLanes;

template <Float kType>
static float largest_of(const void* x, int64_t begin, int64_t end) {
  F32 most = broadcast(-kInfinity);  // NaN is passed over here and comes back through its exponential
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) most = larger(load<kType>(x, i), most);
  float result = largest_of_lanes(most);
  for (; i < end; ++i) {
    const float value = load<kType>(x, i, 1)[0];
    if (value > result) result = value;
  }
  return result;
}

struct Sums {
  F32 sum;
  F32 weighted;
};

GRPO_INLINE void add_exponentials(F32 x, F32 origin, F32 scale, Sums& sums) {
  const F32 u = (x - origin) * scale;
  const F32 p = exponential(u);
  sums.sum += p;
  // Clamped: exp(-inf) * -inf is to add 0, and NaN passes.
  sums.weighted = multiply_add(p, larger(broadcast(-200.0f), u), sums.weighted);
}

template <Float kType>
GRPO_INLINE Sums exponentials_of(const void* x, int64_t begin, int64_t end, F32 origin, F32 scale) {
  Sums sums = {};
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) add_exponentials(load<kType>(x, i), origin, scale, sums);
  if (i < end) add_exponentials(load<kType>(x, i, static_cast<int>(end - i), -kInfinity), origin, scale, sums);
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
    const F32 origin = broadcast(max > -kInfinity ? max : 0.0f);
    Doubles chunk_sum = {}, chunk_weighted = {};
    for (int64_t i = begin; i < end; i += kRun) {
      const Sums sums = exponentials_of<kType>(x, i, end - i < kRun ? end : i + kRun, origin, broadcast(scale));
      add_float(chunk_sum, sums.sum);
      add_float(chunk_weighted, sums.weighted);
    }
    sum += sum_of_lanes(chunk_sum);
    weighted += sum_of_lanes(chunk_weighted);
  }
  if (max == -kInfinity) sum = weighted = __builtin_nan("");
  return {max, sum, weighted};
}

static SoftmaxStats softmax_stats(const void* x, Float type, int64_t n, float scale) {
  if (type == Float::kF32) return softmax_stats_of<Float::kF32>(x, n, scale);
  if (type == Float::kBf16) return softmax_stats_of<Float::kBf16>(x, n, scale);
  return softmax_stats_of<Float::kF16>(x, n, scale);
}

// y = e^u * (a + b * u): the constants of the row are folded into a and b.
GRPO_INLINE F32 gradient_of(F32 x, F32 max, F32 scale, F32 a, F32 b) {
  const F32 u = (x - max) * scale;
  const F32 y = exponential(u) * multiply_add(b, u, a);
  return u == -kInfinity ? broadcast(0.0f) : y;
}

template <Float kType, Float kResult>
static void softmax_gradient_of(const void* x, int64_t n, float scale, float max, float a, float b, void* y) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const F32 value = load<kType>(x, i);
    store<kResult>(y, i, gradient_of(value, broadcast(max), broadcast(scale), broadcast(a), broadcast(b)));
  }
  if (i == n) return;
  const int count = static_cast<int>(n - i);
  const F32 value = load<kType>(x, i, count);
  store<kResult>(y, i, gradient_of(value, broadcast(max), broadcast(scale), broadcast(a), broadcast(b)), count);
}

template <Float kType>
static void softmax_gradient_from(const void* x, int64_t n, float scale, float max, float a, float b, void* y,
                                  Float y_type) {
  if (y_type == Float::kF32) return softmax_gradient_of<kType, Float::kF32>(x, n, scale, max, a, b, y);
  if (y_type == Float::kBf16) return softmax_gradient_of<kType, Float::kBf16>(x, n, scale, max, a, b, y);
  softmax_gradient_of<kType, Float::kF16>(x, n, scale, max, a, b, y);
}

static void softmax_gradient(const void* x, Float type, int64_t n, float scale, float max, double logsumexp, float a,
                             float b, double shift, void* y, Float y_type) {
  // exp(u - logsumexp) = exp(u - scale * max) * exp(scale * max - logsumexp), the second factor once per row in double.
  const double offset = static_cast<double>(max) * scale;
  const double inverse = exp(offset - logsumexp);
  const float row_a = static_cast<float>(inverse * (a - b * (shift - offset)));
  const float row_b = static_cast<float>(inverse * b);
  if (type == Float::kF32) return softmax_gradient_from<Float::kF32>(x, n, scale, max, row_a, row_b, y, y_type);
  if (type == Float::kBf16) return softmax_gradient_from<Float::kBf16>(x, n, scale, max, row_a, row_b, y, y_type);
  softmax_gradient_from<Float::kF16>(x, n, scale, max, row_a, row_b, y, y_type);
}

template <Float kType, Float kResult>
static void convert_of(const void* x, void* y, int64_t n) {
  int64_t i = 0;
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
