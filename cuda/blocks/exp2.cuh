// 2^u to float32's accuracy. ex2.approx may err by 2^-22 of the result, four times what rounding it to float32 may.
//
// u is n + f, n whole and -0.5 <= f <= 0.5. 2^f is a polynomial whose largest relative error is as small as with six
// coefficients it can be, 2^-28.5 before rounding; n is added to the exponent. 10 instructions, of which 9 are float32
// additions and multiply-adds.
#pragma once

#include "launch/ptx.cuh"

namespace grpo::cuda {

// Exponents of 2 below it count as it: their power is 0, and the product of the two stays 0 instead of 0 * -inf.
constexpr float kFar = -127;

// For kFar <= u < 127.5: off by at most 2^-23.5 of the result, where that is below 2^-126 by at most 2^-126. Exactly 1
// at 0, exactly 0 at kFar, NaN at NaN.
__device__ __forceinline__ float exp2_accurate(float u) {
  constexpr float kWhole = 12582912;  // 1.5 * 2^23: the sum has no digits after the point, and n as its last bits
  const float shifted = u + kWhole, f = u - (shifted - kWhole);
  float power = fmaf(f, 1.5594688e-4f, 1.3406643e-3f);
  power = fmaf(f, power, 9.617693e-3f);
  power = fmaf(f, power, 5.5503104e-2f);
  power = fmaf(f, power, 2.4022652e-1f);
  power = fmaf(f, power, 6.9314724e-1f);
  power = fmaf(f, power, 1);
  return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, power) + (__builtin_bit_cast(uint32_t, shifted) << 23));
}

}  // namespace grpo::cuda
