// Who a thread is, and what the lanes of a warp do together. Reductions have a fixed order (two runs give the same
// bits; no floating-point atomics anywhere).
#pragma once

#include <cmath>
#include <cstdint>

#include "launch/ptx.cuh"

namespace grpo::cuda {

#ifndef __CUDACC__  // nvcc has them without a namespace
using std::isfinite, std::isinf, std::isnan;
#endif

constexpr int kWarp = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;

__device__ __forceinline__ int lane_index() { return threadIdx.x % kWarp; }
__device__ __forceinline__ int warp_index() { return threadIdx.x / kWarp; }
__device__ __forceinline__ int64_t thread_index() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }

// combine() over the lanes of a full warp, in the order of a butterfly: every lane receives the same bits.
template <class T, class F>
__device__ __forceinline__ T warp_reduce(T value, F combine) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    value = combine(value, __shfl_xor_sync(kAllLanes, value, distance));
  return value;
}

// The sum over the lower lanes and this one.
template <class T>
__device__ __forceinline__ T warp_scan(T value) {
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const T lower = __shfl_up_sync(kAllLanes, value, distance);
    if (lane_index() >= distance) value += lower;
  }
  return value;
}

struct Add {
  template <class T>
  __device__ __forceinline__ T operator()(T x, T y) const {
    return x + y;
  }
};

}  // namespace grpo::cuda
