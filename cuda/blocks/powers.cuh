// Powers of two, by which numbers are brought into the range of f16 and back: no digit changes.
#pragma once

#include "blocks/lanes.cuh"

namespace grpo::cuda {

constexpr int kMostPower = 126;  // float32 has 2^126 and its inverse

// 2^n for |n| <= 2 * 126 as the product of two float32 numbers.
struct PowerOfTwo {
  float near, far;

  __device__ __forceinline__ explicit PowerOfTwo(int n) : near(exactly(n / 2)), far(exactly(n - n / 2)) {}
  __device__ __forceinline__ static float exactly(int n) {
    return __builtin_bit_cast(float, static_cast<uint32_t>(n + 127) << 23);
  }
  __device__ __forceinline__ float times(float x) const { return x * near * far; }
};

// The n that brings a magnitude to between 2^14 and 2^15, as far as float32 has 2^n: f16 ends at 65504. 0 where the
// magnitude is 0 or no number.
__device__ __forceinline__ int power_for(double magnitude) {
  if (!(magnitude > 0) || isinf(magnitude)) return 0;
  const uint64_t bits = __builtin_bit_cast(uint64_t, magnitude);
  const int power = 14 - (static_cast<int>(bits >> 52) - 1023);
  return power > kMostPower ? kMostPower : power < -kMostPower ? -kMostPower : power;
}

}  // namespace grpo::cuda
