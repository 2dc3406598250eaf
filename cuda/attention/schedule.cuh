// The lists of work of shared-prefix attention, made on the device: see schedule.cu.
#pragma once

#include "attention/forest.cuh"
#include "blocks/lanes.cuh"
#include "launch/launch.cuh"

namespace grpo::cuda {

// Tiles in device memory, the longest work first.
struct WorkList {
  const TokenTile* tiles;
  const int32_t* count;  // [1]    -1: the arrays describe no forest of P tokens, and the outputs become NaN
  uint32_t* next;        // [1]    0: of the one kernel whose blocks draw their work
  int64_t bound;         // tiles at most
  int32_t tokens;        // of a tile at most
};

// Consecutive tokens of one tree; short segments are packed together.
WorkList list_query_tiles(const Forest& forest, int32_t tokens, Launch& on);
// Consecutive tokens of one segment, kTileTokens at most.
WorkList list_key_tiles(const Forest& forest, Launch& on);

// The fewest blocks that fill the GPU, each of which takes items i, i + gridDim.x, ... or draws them.
inline int64_t blocks_for(int64_t items, int per_multiprocessor, const Launch& on) {
  const int64_t room = int64_t{on.device.multiprocessors} * per_multiprocessor;
  return items < room ? items : room;
}

// The item of a block that has done its last one: the next that nobody has. Blocks that finish early take more, and no
// bit depends on who takes what.
__device__ __forceinline__ uint32_t draw(const WorkList& work, uint32_t& shared) {
  __syncthreads();
  if (threadIdx.x == 0) shared = atomicAdd(work.next, 1u);
  __syncthreads();
  return shared;
}

// A tile of up to `tokens` tokens in parts of kTileTokens, for kernels whose tiles are smaller: part i, empty or not.
__host__ __device__ inline int parts_of(const WorkList& work) { return (work.tokens + kTileTokens - 1) / kTileTokens; }
__device__ __forceinline__ TokenTile part_of(const Forest& forest, const TokenTile& tile, int part) {
  TokenTile own = tile;
  own.begin += part * kTileTokens;
  if (own.begin >= own.end) return {own.segment, own.end, own.end, 0, own.position};
  if (own.end - own.begin > kTileTokens) own.end = own.begin + kTileTokens;
  while (forest.start[own.segment + 1] <= own.begin) ++own.segment;
  return own;
}

}  // namespace grpo::cuda
