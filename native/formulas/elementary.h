// Exponential and logarithm for the formulas of token_loss.h, which includes this: of a double, or of a vector of
// doubles with one token per lane.

#include "formulas/formula.h"

template <class Real>
using Mask = decltype(Real{} < Real{});

template <class Real>
GRPO_FORMULA Real constant(double x) {
  if constexpr (std::is_arithmetic_v<Real>) return static_cast<Real>(x);
  else return x - Real{};
}

// ---- exponentials ---------------------------------------------------------------------------------------------------

// x = k log 2 + r with |r| <= log(2) / 2, and tail = exp(r) - 1 - r. A double or a vector of doubles.
template <class Real>
struct Reduced {
  Real half_scale;  // 2^(k - 1): k may be 1024
  Real k, r, tail;
};

template <class Real>
GRPO_FORMULA Reduced<Real> reduce_exponent(Real x) {
  using Bits = std::conditional_t<std::is_arithmetic_v<Real>, uint64_t, Mask<Real>>;
  // Adding 1.5 * 2^52 rounds to an integer and leaves it in the low bits.
  const double round = 0x1.8p52;
  const Real shifted = x * 0x1.71547652b82fep+0 + round;
  const Real k = shifted - round;
  // log 2 in two parts; k times the first is exact.
  const Real r = (x - k * 0x1.62e42feep-1) - k * 0x1.a39ef35793c76p-33;
  const Real half_scale = __builtin_bit_cast(Real, (__builtin_bit_cast(Bits, shifted) + 1022) << 52);
  // The Taylor series up to r^13 (what it leaves out is below 1e-17), in pairs: sums that do not wait for one another.
  const Real r2 = r * r, r4 = r2 * r2;
  const Real p0 = (r * (1.0 / 6) + 0.5) + r2 * (r * (1.0 / 120) + 1.0 / 24);
  const Real p4 = (r * (1.0 / 5040) + 1.0 / 720) + r2 * (r * (1.0 / 362880) + 1.0 / 40320);
  const Real p8 = (r * (1.0 / 39916800) + 1.0 / 3628800) + r2 * (r * (1.0 / 6227020800) + 1.0 / 479001600);
  return {half_scale, k, r, r2 * (p0 + r4 * (p4 + r4 * p8))};
}

// The same of one number, as a GPU takes it: each sum waits for the one before, for there are other threads to run.
GRPO_CONSTANTS double kLog2E = 0x1.71547652b82fep+0, kLog2High = 0x1.62e42feep-1, kLog2Low = 0x1.a39ef35793c76p-33;
GRPO_CONSTANTS double kExponential[] = {1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800,
                                        1.0 / 362880,     1.0 / 40320,     1.0 / 5040,     1.0 / 720,
                                        1.0 / 120,        1.0 / 24,        1.0 / 6,        1.0 / 2};

GRPO_FORMULA Reduced<double> reduce_exponent(double x) {
#if defined(__CUDACC__) && !defined(__CUDA_ARCH__)
  return reduce_exponent<double>(x);  // what nvcc compiles for the host, which has no such memory
#else
  const double round = 0x1.8p52, shifted = x * kLog2E + round, k = shifted - round;
  const double r = (x - k * kLog2High) - k * kLog2Low;
  const double half_scale = __builtin_bit_cast(double, (__builtin_bit_cast(uint64_t, shifted) + 1022) << 52);
  double sum = kExponential[0];
  for (int i = 1; i < 12; ++i) sum = sum * r + kExponential[i];
  return {half_scale, k, r, r * r * sum};
#endif
}

template <class Real>
GRPO_FORMULA Real exponential_of(Reduced<Real> e, Real x) {
  const Real y = e.half_scale * (2 + 2 * (e.r + e.tail)), zero = constant<Real>(0), infinity = constant<Real>(INFINITY);
  if constexpr (std::is_arithmetic_v<Real>) {
    // By the upper bits, without a float64 comparison: from 709.7827 and from -707, up to the infinities. A NaN is y.
    uint64_t bits = __builtin_bit_cast(uint64_t, x);
    const auto upper = static_cast<uint32_t>(bits >> 32);
    const bool large = upper - 0x40862e43 <= 0x7ff00000 - 0x40862e43;
    const bool small = upper - 0xc0861800 <= 0xfff00000 - 0xc0861800;
    return large ? infinity : small ? zero : y;
  } else {
    return x > 709.782712893384 ? infinity : x < -707 ? zero : y;
  }
}

// Within one unit in the last place: exactly 1 at 0, 0 below -707, infinite above 709.78, NaN for NaN.
template <class Real>
GRPO_FORMULA Real exponential(Real x) {
  return exponential_of(reduce_exponent(x), x);
}

// ---- the logarithm --------------------------------------------------------------------------------------------------

// Within one unit in the last place of numbers above 2^-1022, NaN for NaN.
template <class Real>
GRPO_FORMULA Real logarithm(Real x) {
  using Bits = std::conditional_t<std::is_arithmetic_v<Real>, int64_t, Mask<Real>>;
  // x = 2^k m with m from sqrt(1/2) to sqrt(2): the bits of m's lower end are taken off, so that k changes there.
  const Bits bits = __builtin_bit_cast(Bits, x), k = (bits - 0x3fe6a09e667f3bcd) >> 52;
  const Real m = __builtin_bit_cast(Real, bits - (k << 52));
  // 1.5 * 2^52 + k: k as a double, without an instruction that only AVX-512 has.
  const double round = 0x1.8p52;
  const Real exponent = __builtin_bit_cast(Real, k + 0x4338000000000000) - round;
  // 2 artanh(s), s up to 0.172: the series up to s^21 (what it leaves out is below 1e-18).
  const Real s = (m - 1) / (m + 1), z = s * s;
  Real tail = constant<Real>(2.0 / 21);
  for (int n = 19; n > 1; n -= 2) tail = tail * z + 2.0 / n;
  const Real y = exponent * 0x1.62e42feep-1 + (2 * s + (s * z * tail + exponent * 0x1.a39ef35793c76p-33));
  return x != x ? x : y;
}
