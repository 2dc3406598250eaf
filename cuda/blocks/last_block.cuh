// Which block of a grid comes last, without waiting for the others.
#pragma once

#include "blocks/lanes.cuh"

namespace grpo::cuda {

// Thread 0 of each block arrives once; true in every thread of the block that comes last, which may read what the
// others wrote. `arrived`: 0 before. `last`: shared memory.
__device__ __forceinline__ bool last_block(uint32_t* arrived, uint32_t* last) {
  __syncthreads();
  if (threadIdx.x == 0) *last = acquire_release_add(arrived, 1) == gridDim.x - 1;
  __syncthreads();
  return *last != 0;
}

}  // namespace grpo::cuda
