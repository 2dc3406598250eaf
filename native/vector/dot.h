// One row against another, for products of rows that are gathered. Included by the files that choose the instruction
// set, see simd.h.

template <Float kType>
static float dot_of(const float* x, const void* y, int64_t n) {
  constexpr int kSums = 4;  // as many multiply-adds under way as a processor has room for
  F32 sum[kSums] = {};
  int64_t i = 0;
  for (; i + kSums * kLanes <= n; i += kSums * kLanes) {
#pragma GCC unroll 4
    for (int v = 0; v < kSums; ++v)
      sum[v] = multiply_add(load<Float::kF32>(x, i + v * kLanes), load<kType>(y, i + v * kLanes), sum[v]);
  }
  for (; i + kLanes <= n; i += kLanes) sum[0] = multiply_add(load<Float::kF32>(x, i), load<kType>(y, i), sum[0]);
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    sum[1] = multiply_add(load<Float::kF32>(x, i, rest, 0), load<kType>(y, i, rest, 0), sum[1]);
  }
  Doubles total = {};
#pragma GCC unroll 4
  for (int v = 0; v < kSums; ++v) add_float(total, sum[v]);
  return static_cast<float>(sum_of_lanes(total));
}

static float dot(const float* x, const void* y, Float y_type, int64_t n) {
  if (y_type == Float::kF32) return dot_of<Float::kF32>(x, y, n);
  return y_type == Float::kBf16 ? dot_of<Float::kBf16>(x, y, n) : dot_of<Float::kF16>(x, y, n);
}

template <Float kType>
static void add_scaled_of(float factor, const void* x, float* y, int64_t n) {
  const F32 wide = broadcast(factor);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    store<Float::kF32>(y, i, multiply_add(wide, load<kType>(x, i), load<Float::kF32>(y, i)));
  if (i == n) return;
  const int rest = static_cast<int>(n - i);
  store<Float::kF32>(y, i, multiply_add(wide, load<kType>(x, i, rest, 0), load<Float::kF32>(y, i, rest, 0)), rest);
}

static void add_scaled(float factor, const void* x, Float x_type, float* y, int64_t n) {
  if (x_type == Float::kF32) add_scaled_of<Float::kF32>(factor, x, y, n);
  else if (x_type == Float::kBf16) add_scaled_of<Float::kBf16>(factor, x, y, n);
  else add_scaled_of<Float::kF16>(factor, x, y, n);
}
