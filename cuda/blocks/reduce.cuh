// One number from those of all threads of a block, in a fixed order.
#pragma once

#include "blocks/lanes.cuh"

namespace grpo::cuda {

// combine() over the block, the same bits in every thread: the lanes of each warp, then warp after warp. `partial`:
// shared memory, one per warp. All threads call it; blockDim.x is a multiple of 32.
template <class T, class F>
__device__ __forceinline__ T block_reduce(T value, T* partial, F combine) {
  value = warp_reduce(value, combine);
  __syncthreads();  // partial may still be read from the call before
  if (lane_index() == 0) partial[warp_index()] = value;
  __syncthreads();
  T all = partial[0];
  for (int warp = 1; warp < static_cast<int>(blockDim.x) / kWarp; ++warp) all = combine(all, partial[warp]);
  return all;
}

template <class T>
__device__ __forceinline__ T block_sum(T value, T* partial) {
  return block_reduce(value, partial, Add{});
}

}  // namespace grpo::cuda
