// What the kernels of the self-test read.
#pragma once

#ifdef __CUDACC__
#include <cuda_runtime.h>
#endif

#include <cmath>
#include <cstdint>

#include "launch/ptx.cuh"

namespace grpo::cuda {
namespace {

constexpr int kLanes = 32;

// What a kernel reads besides its lane: word i is pattern(i).
constexpr int kInputWords = 1024;
__host__ __device__ constexpr uint32_t pattern(uint32_t i) { return (i + 1) * 2654435761u; }

__device__ __forceinline__ uint32_t float_bits(float x) {
  return x != x ? 0x7fffffffu : __float_as_uint(x);  // which NaN does not matter
}

struct alignas(16) Four {
  uint32_t x, y, z, w;
};
struct alignas(8) Pair {
  uint32_t x, y;
};

// Ties, the largest and smallest of each format, what lies beside them, and no number.
__device__ __forceinline__ float special(uint32_t lane) {
  const uint32_t bits[kLanes] = {
      0x00000000, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001,
      0x3f808000, 0x3f818000, 0x3f808001, 0x3f801000, 0x3f803000, 0x3f801001, 0x477fe000, 0x477fefff,
      0x477ff000, 0x477fffff, 0x7f7fffff, 0x7f7f8000, 0x7f7f7fff, 0x38800000, 0x387fe000, 0x387ff000,
      0x33800000, 0x33000000, 0x33000001, 0x33c00000, 0xb3c00001, 0x00000001, 0x00008000, 0x00018000};
  return __uint_as_float(bits[lane]);
}

}  // namespace
}  // namespace grpo::cuda
