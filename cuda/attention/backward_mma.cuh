// What the two passes of the gradients have in common where they go through matrix instructions: bf16 and f16, head
// sizes up to 128.
//
// A block of four warps has 64 keys (or 64 queries) in shared memory for as long as it owns them, and two stages of
// what it runs over: while one is at work the next is copied. Scores and their slopes are formed in halves of 32
// columns, which leaves registers for both sums. An item with a result that is not finite is marked, and done again
// without matrix instructions: there hidden rows have no weight at all, here they have the weight 0, and 0 times
// infinity is NaN.
#pragma once

#include "attention/backward.cuh"
#include "attention/mma_tiles.cuh"

namespace grpo::cuda {

constexpr int kHalf = kTileTokens / 2, kHalfFragments = kHalf / 8;

template <class T, int kWidth>
struct BackwardShared {
  alignas(16) Stage<T, kWidth> d, e;                      // of the owner: k and v, or q and gradOut
  alignas(16) Stage<T, kWidth> others_d[2], others_e[2];  // what it runs over
  alignas(16) float logsumexp[2][kTileTokens];
  alignas(16) float delta[2][kTileTokens];
};

// A sum of weighted rows. f16 has no room for slopes of any size: there weights and sum are in units of a power of two
// that grows with the weights; they agree on it within a warp.
template <class T, int kWidth>
struct WeightedSum {
  float sum[kWidth / 8][4];
  float unit;

  __device__ __forceinline__ WeightedSum() : unit(std::is_same_v<T, f16> ? 0x1p-126f : 1.0f) {
#pragma unroll
    for (int i = 0; i < kWidth / 8; ++i)
#pragma unroll
      for (int c = 0; c < 4; ++c) sum[i][c] = 0;
  }
  __device__ __forceinline__ void add(float (&weights)[kHalfFragments][4], const Stage<T, kWidth>& x, int row,
                                      int64_t n) {
    if constexpr (std::is_same_v<T, f16>) {
      float most = 0;
#pragma unroll
      for (int i = 0; i < kHalfFragments; ++i)
#pragma unroll
        for (int c = 0; c < 4; ++c) most = fmaxf(most, fabsf(weights[i][c]));
      most = warp_reduce(most, [](float a, float b) { return fmaxf(a, b); });
      if (most > unit) {
        const uint32_t exponent = __builtin_bit_cast(uint32_t, most) & 0x7f800000u;
        const float larger = __builtin_bit_cast(float, exponent < 0x7e800000u ? exponent + 0x800000u : 0x7e800000u);
        const float factor = unit / larger;
#pragma unroll
        for (int i = 0; i < kWidth / 8; ++i)
#pragma unroll
          for (int c = 0; c < 4; ++c) sum[i][c] *= factor;
        unit = larger;
      }
      const float inverse = 1 / unit;
#pragma unroll
      for (int i = 0; i < kHalfFragments; ++i)
#pragma unroll
        for (int c = 0; c < 4; ++c) weights[i][c] *= inverse;
    }
    add_weighted<kHalfFragments, T, kWidth>(sum, weights, x, row, n);
  }
  __device__ __forceinline__ bool store(int which, const Gradient& to, int64_t at, int64_t n) const {
    return store_fragments(sum, which, unit * to.scale, to.data, to.type, at, n);
  }
};

// The kernels of a pass, for head sizes up to 64, 96 and 128.
using BackwardKernel = void (*)(Backward, Forest, AttentionShape, WorkList, uint8_t*);

// Null, and nothing is enqueued, where a block may not have the shared memory.
template <class T>
const uint8_t* enqueue(const BackwardKernel (&kernels)[3], int64_t items, const Backward& backward,
                       const Forest& forest, const AttentionShape& shape, const WorkList& work, Launch& on) {
  constexpr size_t kShared[] = {sizeof(BackwardShared<T, 64>), sizeof(BackwardShared<T, 96>),
                                sizeof(BackwardShared<T, 128>)};
  const int64_t widest = shape.D > shape.E ? shape.D : shape.E;
  const int which = widest <= 64 ? 0 : widest <= 96 ? 1 : 2;
  if (static_cast<int64_t>(kShared[which]) > on.device.shared_limit) {
    on.because("the GPU lets a block have less shared memory than this head size takes");
    return nullptr;
  }
  uint8_t* again = on.scratch<uint8_t>(items);
  on(kernels[which], {blocks_for(items, 2, on), kMatrixThreads, kShared[which]}, backward, forest, shape, work, again);
  return again;
}

}  // namespace grpo::cuda
