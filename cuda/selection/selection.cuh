// What select_tokens and select_rollouts share: scores as whole numbers of the same order.
#pragma once

#include "blocks/offsets.cuh"
#include "native/selection/selection.h"

namespace grpo::cuda {

// Keys compare as scores do. Below the keys of all numbers: no candidate at all, and NaN, which is never kept but
// counts in n.
constexpr uint32_t kMaskedKey = 0, kNanKey = 1, kLowestKey = 2, kZeroKey = 0x80000000u;

__device__ __forceinline__ uint32_t key_of(float score) {
  uint32_t bits = __float_as_uint(score);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return kNanKey;
  if (bits == 0x80000000u) bits = 0;  // -0 and 0 are equal
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float score_of(uint32_t key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

// At a threshold the first few are kept: those up to this place.
constexpr int32_t kAllPlaces = INT32_MAX, kNoPlace = -1;

}  // namespace grpo::cuda
