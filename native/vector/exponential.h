// Exponentials. Included by the files that choose the instruction set, see simd.h.

// Several vectors that go through a chain of dependent operations in step, because the processor would not look far
// enough ahead to overlap one chain with the next. Four pay even where 16 registers cannot hold them all (against two,
// on Zen 4: AVX2 5% faster, SSE2 11%).
constexpr int kWide = 4;

struct Wide {
  F32 v[kWide];
};

// The operations take a Wide, or one vector that stands for all of them.
GRPO_INLINE F32 at(F32 x, int) { return x; }
GRPO_INLINE F32 at(const Wide& x, int i) { return x.v[i]; }

template <class A, class B, class C>
GRPO_INLINE Wide multiply_add(const A& a, const B& b, const C& c) {
  Wide result;
#pragma GCC unroll 4
  for (int i = 0; i < kWide; ++i) result.v[i] = multiply_add(at(a, i), at(b, i), at(c, i));
  return result;
}

template <class B>
GRPO_INLINE Wide operator-(const Wide& a, const B& b) {
  Wide result;
#pragma GCC unroll 4
  for (int i = 0; i < kWide; ++i) result.v[i] = a.v[i] - at(b, i);
  return result;
}

template <class B>
GRPO_INLINE Wide operator+(const Wide& a, const B& b) {
  Wide result;
#pragma GCC unroll 4
  for (int i = 0; i < kWide; ++i) result.v[i] = a.v[i] + at(b, i);
  return result;
}

template <class B>
GRPO_INLINE Wide operator*(const Wide& a, const B& b) {
  Wide result;
#pragma GCC unroll 4
  for (int i = 0; i < kWide; ++i) result.v[i] = a.v[i] * at(b, i);
  return result;
}

GRPO_INLINE Wide rounded_product(const Wide& a, F32 b) {
  Wide result;
#pragma GCC unroll 4
  for (int i = 0; i < kWide; ++i) result.v[i] = rounded_product(a.v[i], b);
  return result;
}

GRPO_INLINE Wide zero_below(F32 bound, const Wide& x, const Wide& y) {
  Wide result;
#pragma GCC unroll 4
  for (int i = 0; i < kWide; ++i) result.v[i] = zero_below(bound, x.v[i], y.v[i]);
  return result;
}

GRPO_INLINE Wide not_above(F32 limit, const Wide& x) {
  Wide result;
#pragma GCC unroll 4
  for (int i = 0; i < kWide; ++i) result.v[i] = not_above(limit, x.v[i]);
  return result;
}

// ---- e^x = 2^n e^r with |r| <= ln(2) / 2. T is F32 or Wide.

constexpr float kLog2E = 1.44269504f;
// Two parts of ln 2. The first has 9 bits, so that n times it is exact.
constexpr float kLn2High = 0.693359375f;
constexpr float kLn2Low = -2.12194440e-4f;
// Adding it rounds to an integer, which stands in the low bits with the exponent's bias of 127 on top.
constexpr float kShifter = 12582912.0f + 127.0f;
// ln(2^-126): below it the exponential counts as 0.
constexpr float kLowestExponent = -87.3365448f;

// p * 2^n, where n + kShifter = shifted and -126 <= n <= 127. NaN for NaN.
GRPO_INLINE F32 times_power(F32 p, F32 shifted, F32 n) {
#if GRPO_AVX512
  (void)shifted;
  return (F32)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  (void)n;
  return p * float_of(bits_of(shifted) << 23);
#endif
}

GRPO_INLINE Wide times_power(const Wide& p, const Wide& shifted, const Wide& n) {
  Wide result;
#pragma GCC unroll 4
  for (int i = 0; i < kWide; ++i) result.v[i] = times_power(p.v[i], shifted.v[i], n.v[i]);
  return result;
}

// (e^r - 1) / r. Minimax for e^r, with its first two coefficients held at 1: relative error 3.1e-9 of that.
template <class T>
GRPO_INLINE T growth_of_remainder(const T& r) {
  const T p6 = multiply_add(r, broadcast(0x1.6a4cb4p-10f), broadcast(0x1.123986p-7f));
  const T p5 = multiply_add(p6, r, broadcast(0x1.5558b0p-5f));
  const T p4 = multiply_add(p5, r, broadcast(0x1.555492p-3f));
  const T p3 = multiply_add(p4, r, broadcast(0x1.fffffcp-2f));
  return multiply_add(p3, r, broadcast(1.0f));
}

template <class T>
GRPO_INLINE T exponential_of_remainder(const T& r) {
  return multiply_add(growth_of_remainder(r), r, broadcast(1.0f));
}

// e^x for x <= 0 or NaN. Relative error below 1e-7; 0 below 2^-126.
template <class T>
GRPO_INLINE T exponential_below_zero(const T& x) {
  const T shifted = multiply_add(x, broadcast(kLog2E), broadcast(kShifter));
  const T n = shifted - broadcast(kShifter);
  const T r = multiply_add(n, broadcast(-kLn2Low), multiply_add(n, broadcast(-kLn2High), x));
  return zero_below(broadcast(kLowestExponent), x, times_power(exponential_of_remainder(r), shifted, n));
}

// e^x for any x: infinity above the largest float; 0 below 2^-125.
template <class T>
GRPO_INLINE T exponential(const T& x) {
  // Computed with n - 1, which stays at 127 up to the limit, and doubled, which overflows there.
  const T limited = not_above(broadcast(89.0f), x);
  const T shifted = multiply_add(limited, broadcast(kLog2E), broadcast(kShifter - 1.0f));
  const T less = shifted - broadcast(kShifter);
  const T n = less + broadcast(1.0f);
  const T r = multiply_add(n, broadcast(-kLn2Low), multiply_add(n, broadcast(-kLn2High), limited));
  const T half = times_power(exponential_of_remainder(r), shifted, less);
  return zero_below(broadcast(kLowestExponent), x, half + half);
}

// tanh(x / c), within 1.4 units in its last place however small x is: with y = |x/c| and e = e^-2y
//   tanh y = y + y^3 P(y^2) up to y = 1, P minimax (1.3e-9 of tanh y), and 1 - 2 e / (1 + e) from there on
// 2 / c is in two parts, so that x / c is rounded once. NaN for NaN.
struct Tangent {
  F32 high, low;
  F32 saturated;  // -x from which on the result is 1 to the last digit
};

GRPO_INLINE Tangent tangent_over(double cap) {
  const float high = static_cast<float>(2 / cap);
  const double saturated = kLowestExponent / 2 * cap;
  return {broadcast(high), broadcast(static_cast<float>(2 / cap - high)),
          broadcast(saturated > -3e38 ? static_cast<float>(saturated) : -3e38f)};
}

struct TangentAt {
  F32 value;
  F32 slope;  // 1 - tanh^2 = 4 e / (1 + e)^2, which keeps its digits where tanh is nearly 1
};

GRPO_INLINE TangentAt tangent_at(F32 x, const Tangent& tangent) {
  const U32 sign = bits_of(broadcast(-0.0f));
  const F32 magnitude = larger(tangent.saturated, float_of(bits_of(x) | sign));
  const F32 minus = multiply_add(magnitude, tangent.high, magnitude * tangent.low);
  const F32 shifted = multiply_add(minus, broadcast(kLog2E), broadcast(kShifter));
  const F32 n = shifted - broadcast(kShifter);
  const F32 r = multiply_add(n, broadcast(-kLn2Low), multiply_add(n, broadcast(-kLn2High), minus));
  const F32 e = times_power(exponential_of_remainder(r), shifted, n), one = broadcast(1.0f), sum = one + e;
  const F32 y = minus * broadcast(-0.5f), square = y * y;
  const F32 p6 = multiply_add(square, broadcast(-0x1.7c2234p-12f), broadcast(0x1.2f7e3ap-9f));
  const F32 p5 = multiply_add(p6, square, broadcast(-0x1.050116p-7f));
  const F32 p4 = multiply_add(p5, square, broadcast(0x1.603f0ap-6f));
  const F32 p3 = multiply_add(p4, square, broadcast(-0x1.b96b28p-5f));
  const F32 p2 = multiply_add(p3, square, broadcast(0x1.110c3cp-3f));
  const F32 p1 = multiply_add(p2, square, broadcast(-0x1.55553ep-2f));
  const Mask small = not_below(minus, broadcast(-2.0f));
  const F32 t = select(small, multiply_add(y * square, p1, y), multiply_add(broadcast(-2.0f), e / sum, one));
  return {float_of(bits_of(t) | (bits_of(x) & sign)), broadcast(4.0f) * e / (sum * sum)};
}

GRPO_INLINE F32 hyperbolic_tangent(F32 x, const Tangent& tangent) { return tangent_at(x, tangent).value; }
