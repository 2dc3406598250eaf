// What the two passes of the gradients have in common where they go through matrix instructions: bf16 and f16, head
// sizes up to 256.
//
// A block has 64 keys (or 64 queries, of up to four heads) in shared memory for as long as it owns them, 16 for each of
// its four warps, and one or two stages of what it runs over: while one is at work the next is copied. Where sums take
// more registers than a warp has, of head sizes above 128 and of both sums together above 96, two warps share 16 rows
// (sharing.cuh) and a block has eight. Scores and their slopes are formed of f16 copies (factors.cuh); the weights of a
// sum, probabilities or slopes, go in as f16 in units of their row that grow with them: one term where the sum is
// rounded to bf16, two where it is rounded to f16 or not at all. A slope
//
//   p (gradOut.v - delta)
//
// carries the sizes of the copies with it.
//
// Instructions for 16 rows and 64 columns of head size 128, counted in machine code for sm_90a: gradK and gradV 1,630
// (of two warps) for 256 matrix instructions, 6.4 each; gradQ 1,350 for 192, 7.0 each. They were 3,360 for 512 and 2,310
// for 320 where weights went in as three bf16 terms, and copies found each row anew. An item with a result that is not
// finite, or whose tiles have a mark, is marked, and done again without matrix instructions.
#pragma once

#include "attention/backward.cuh"
#include "attention/sharing.cuh"
#include "attention/steps.cuh"

namespace grpo::cuda {

// Terms of the weights of a gradient.
inline int terms_of(const Gradient& gradient, Float type) {
  return gradient.type == Float::kBf16 && type == Float::kBf16 ? 1 : 2;
}

// kBoth: of a kernel with two sums.
template <int kD, int kE, bool kBoth = false>
struct BackwardShapes {
  static constexpr int kWidest = kD > kE ? kD : kE, kStages = kWidest <= 128 ? 2 : 1;
  static constexpr int kParts = kWidest <= (kBoth ? 96 : 128) ? 1 : 2;  // warps that share 16 rows
  static constexpr int kThreads = 4 * kParts * kWarp, kBlocks = 2 / kParts;
};

// Tiles are taken in halves, which leaves registers; by warps that share rows one half each.
constexpr int kHalf = kTileTokens / 2, kHalfFragments = kHalf / 8;

// sum += weights times rows of the tile, the weights being those of one of its halves.
template <int kWidth, int kParts, int kTerms>
__device__ __forceinline__ void add_weighted(float (&sum)[kWidth / kParts / 8][4], float (&unit)[2],
                                             const float (&weights)[kHalfFragments][4], const f16* tile, int half,
                                             SharedWeights<kParts, kTerms>& shared, const Pair<kParts>& pair) {
  float most[2], inverse[2], rescale[2];
  find_most(weights, most);
  if constexpr (kParts == 2) share_most(most, shared.most, pair);
  grow_units(most, unit, inverse, rescale);
  Weights<kTerms, kHalfFragments> own;
  take_weights<kTerms>(own, weights, inverse);
  if constexpr (kParts == 1) {
    add_rows<kWidth, 1>(sum, own, rescale, tile + half * kWidth, 0);
  } else {
    Weights<kTerms, kFragments> all;
    share_weights<kTerms>(all, own, shared, pair);
    add_rows<kWidth, 2>(sum, all, rescale, tile, pair.part);
  }
}

// Of a score that was rounded as in the forward pass: where one key has all the weight, it is logsumexp to the last
// bit.
__device__ __forceinline__ float probability(float score, float logsumexp) {
  return exp2_approx((score - logsumexp) * kLog2E);
}

// A row of sums times `factor`, from `at` on; whether all are finite. One term is for bf16 alone.
template <int kTerms, int kParts, int kCount>
__device__ __forceinline__ bool store_row(const float (&sum)[kCount][4], int part, int which, float factor,
                                          const Gradient& to, int64_t at, int N) {
  float trap = 0;
  const auto store = [&](auto* data) {
    auto* row = data + at;
    const bool paired = N % 2 == 0 && reinterpret_cast<uintptr_t>(row) % (2 * sizeof(*row)) == 0;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int column = column_of<kParts>(i, part);
      const float low = sum[i][which * 2] * factor, high = sum[i][which * 2 + 1] * factor;
      trap = fmaf(high, 0.0f, fmaf(low, 0.0f, trap));  // NaN where one is not finite
      store_pair(row + column, low, high, column, N, paired);
    }
  };
  if (kTerms == 1 || to.type == Float::kBf16) store(static_cast<bf16*>(to.data));
  else if (to.type == Float::kF16) store(static_cast<f16*>(to.data));
  else store(static_cast<float*>(to.data));
  return trap == 0;
}

}  // namespace grpo::cuda
