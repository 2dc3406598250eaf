// Numbers in memory whose dtype is known when the kernel runs.
#pragma once

#include "launch/ptx.cuh"
#include "native/vector/vector.h"

namespace grpo::cuda {

__device__ __forceinline__ float load_float(const void* data, Float type, int64_t i) {
  if (type == Float::kF32) return static_cast<const float*>(data)[i];
  if (type == Float::kBf16) return to_float(static_cast<const bf16*>(data)[i]);
  return to_float(static_cast<const f16*>(data)[i]);
}

__device__ __forceinline__ void store_float(void* data, Float type, int64_t i, float x) {
  if (type == Float::kF32) static_cast<float*>(data)[i] = x;
  else if (type == Float::kBf16) static_cast<bf16*>(data)[i] = from_float<bf16>(x);
  else static_cast<f16*>(data)[i] = from_float<f16>(x);
}

// What rounding to 16 bits loses of a number.
template <class T>
__device__ __forceinline__ float rest_of(float x) {
  const float rounded = to_float(from_float<T>(x));
  return x == rounded ? 0 : x - rounded;  // infinity loses nothing
}
__device__ __forceinline__ float rest_of(float x, Float type) {
  return type == Float::kBf16 ? rest_of<bf16>(x) : rest_of<f16>(x);
}

}  // namespace grpo::cuda
