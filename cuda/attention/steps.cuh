// The tiles of keys that a block runs over, one after the other, and the powers of two of their copies. One thread
// walks, two tiles ahead of the others: who walks has no registers left for sums.
#pragma once

#include "attention/factors.cuh"
#include "blocks/powers.cuh"

namespace grpo::cuda {

struct Step {
  KeyTile keys;
  int32_t power_k, power_v;  // there with the copies of the tile
  bool there;
};

// In shared memory.
struct Steps {
  Step step[3];
  KeyWalk walk;

  // The tile of a turn; turns are 0, 1, 2, 0, ... Powers are those of the key head.
  __device__ __forceinline__ void walk_on(int turn, const Forest& forest, const int32_t* power_k,
                                          const int32_t* power_v) {
    if (threadIdx.x != 0) return;
    Step& next = step[turn];
    next.there = walk.next(forest, next.keys);
    if (!next.there) return;
    cp_async4(&next.power_k, power_k + next.keys.key, true);
    cp_async4(&next.power_v, power_v + next.keys.key, true);
  }
};

__device__ __forceinline__ int turn_after(int turn, int steps) {
  return turn + steps < 3 ? turn + steps : turn + steps - 3;
}

// What numbers of a copy are multiplied by to have their size.
__device__ __forceinline__ float size_of_power(int32_t power) {
  return PowerOfTwo::exactly(power == kZeros || power == kMarked ? 0 : -power);
}

// Query heads of a tile: as many of one key head as fit evenly, up to four. Short responses fill a tile then, and what
// is copied serves all of them.
inline int heads_of_tile(const AttentionShape& shape) {
  const int64_t group = shape.H / shape.K;
  return group % 4 == 0 ? 4 : group % 2 == 0 ? 2 : 1;
}

// then(widths of a kernel): the narrowest that D and E fit in.
template <class Then>
auto with_widths(const AttentionShape& shape, Then then) {
  const int64_t D = shape.D, E = shape.E, widest = D > E ? D : E;
  if (widest <= 64) return then.template operator()<64, 64>();
  if (widest <= 80) return then.template operator()<80, 80>();
  if (widest <= 96) return then.template operator()<96, 96>();
  if (widest <= 128) return then.template operator()<128, 128>();
  if (widest <= 192 && E <= 128) return then.template operator()<192, 128>();
  if (widest <= 192) return then.template operator()<192, 192>();
  return then.template operator()<256, 256>();
}

// Dtypes and head sizes that have such kernels.
inline bool fit_matrices(Float type, const AttentionShape& shape, Launch& on) {
  if (type == Float::kF32) on.because("matrix instructions take bf16 and f16, not f32");
  else if (shape.D < 8 || shape.E < 8 || shape.D > 256 || shape.E > 256)
    on.because("matrix instructions take head sizes from 8 to 256");
  else return true;
  return false;
}

}  // namespace grpo::cuda
