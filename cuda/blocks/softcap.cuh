// The hyperbolic tangent of a soft-cap, see native/logits/temperature.h, with the arithmetic of the CPU's
// (native/vector/exponential.h): with e = e^-2|x| = s + s q, s a power of 2,
//   tanh |x| = (1 - e) / (1 + e), 1 - e = (1 - s) - s q, or, where that is nearly 1, = 1 - 2 e / (1 + e)
// which is within a few units of the last place however small x is, with one special function.
#pragma once

#include "launch/ptx.cuh"
#include "native/logits/temperature.h"

namespace grpo::cuda {

// tanh(x / c), but -inf, which masks a logit, for -inf, and NaN for NaN.
__device__ __forceinline__ float softcapped(float x, InverseCap inverse) {
  constexpr float kShifter = 12582912.0f + 127;  // rounds to n, which stands in the low bits with the exponent's bias
  const float magnitude = fabsf(x) > inverse.saturated ? inverse.saturated : fabsf(x);  // NaN stays
  const float minus = fmaf(magnitude, -2 * inverse.high, magnitude * (-2 * inverse.low));
  const float shifted = fmaf(minus, 1.44269504f, kShifter), n = shifted - kShifter;
  const float r = fmaf(n, 2.12194440e-4f, fmaf(n, -0.693359375f, minus));
  float growth = fmaf(r, 0x1.6a4cb4p-10f, 0x1.123986p-7f);  // (e^r - 1) / r
  growth = fmaf(growth, r, 0x1.5558b0p-5f);
  growth = fmaf(growth, r, 0x1.555492p-3f);
  growth = fmaf(growth, r, 0x1.fffffcp-2f);
  growth = fmaf(growth, r, 1);
  const float s = __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, shifted) << 23);
  const float q = growth * r, e = fmaf(s, q, s);
  const bool large = minus < -1;
  const float dividend = large ? e : fmaf(s, -q, 1 - s), divisor = 1 + e, inverse_divisor = rcp_approx(divisor);
  const float near = dividend * inverse_divisor;
  const float quotient = fmaf(fmaf(-divisor, near, dividend), inverse_divisor, near);  // as a division would round it
  const float t = large ? fmaf(-2, quotient, 1) : quotient;
  return x == -INFINITY ? x : copysignf(t, x);
}

// Its derivative, from its value.
__device__ __forceinline__ float softcap_slope(float t) { return t > -1 ? fmaf(-t, t, 1) : 0; }

}  // namespace grpo::cuda
