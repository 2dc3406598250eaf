// The lists of work of shared-prefix attention, made on the device: see schedule.cu.
#pragma once

#include "attention/forest.cuh"
#include "launch/launch.cuh"

namespace grpo::cuda {

// Tiles in device memory, the longest work first.
struct WorkList {
  const TokenTile* tiles;
  const int32_t* count;  // [1]    -1: the arrays describe no forest of P tokens, and the outputs become NaN
  int64_t bound;         // tiles at most
};

// Consecutive tokens of one tree; short segments are packed together.
WorkList list_query_tiles(const Forest& forest, Launch& on);
// Consecutive tokens of one segment.
WorkList list_key_tiles(const Forest& forest, Launch& on);

// The fewest blocks that fill the GPU, each of which takes items i, i + gridDim.x, ...
inline int64_t blocks_for(int64_t items, int per_multiprocessor, const Launch& on) {
  const int64_t room = int64_t{on.device.multiprocessors} * per_multiprocessor;
  return items < room ? items : room;
}

}  // namespace grpo::cuda
