// What the operations of shared-prefix attention and their kernels agree on: the shape of a call, its tensors, the forest
// of its arguments, and outputs where that is none.
#pragma once

#include "attention/forest.cuh"
#include "blocks/floats.cuh"
#include "blocks/lanes.cuh"
#include "blocks/rows.cuh"
#include "launch/operation.cuh"
#include "native/attention/check.h"
#include "native/attention/options_of_today.h"

namespace grpo::cuda {

struct AttentionShape {
  int64_t P, H, K, D, E;  // H is a multiple of K
  float scale;
  float per_score;  // |scale| log2 e: powers of two in a score
};

// A tensor [tokens, heads, n]: the rows of a token are dense, tokens are a stride apart.
struct Heads {
  const void* data;  // may be null
  int64_t stride;    // elements
};

// The rows of one head of n numbers, from a token on.
template <class T>
__device__ __forceinline__ Rows<T> rows_of(const Heads& x, int64_t token, int64_t head, int64_t n, int32_t count) {
  return {static_cast<const T*>(x.data) + token * x.stride + head * n, x.stride, count};
}

// Items that have to be done again without matrix instructions: tile by tile, `heads` heads at a time. Without marks all.
struct Again {
  const uint8_t* marks;  // [tiles, H / heads], may be null
  int32_t heads;
  __device__ __forceinline__ bool wants(int64_t tile, int64_t head, int64_t H) const {
    return marks == nullptr || marks[tile * (H / heads) + head / heads] != 0;
  }
};

template <class Args>
AttentionShape shape_of(const Args& args, const Axes& axes) {
  const double scale = is_null(args.scale) ? 1 / std::sqrt(static_cast<double>(axes['D'])) : args.scale;
  const float rounded = static_cast<float>(scale);
  return {axes['P'], axes['H'], axes['K'], axes['D'], axes['E'], rounded, std::fabs(rounded) * 1.44269504f};
}

inline Heads heads_of(const DLTensor* x) { return {data<void>(x), x == nullptr ? 0 : row_stride(x)}; }

template <class Args>
Forest forest_of(const Args& args, const Axes& axes) {
  return {data<int32_t>(args.segment_start), data<int32_t>(args.segment_parent), data<int32_t>(args.segment_end),
          axes['B'], axes['P']};
}

__device__ __forceinline__ void fill_nan(void* data, Float type, int64_t count) {
  if (data == nullptr) return;
  for (int64_t i = thread_index(); i < count; i += int64_t{gridDim.x} * blockDim.x) store_float(data, type, i, NAN);
}

}  // namespace grpo::cuda
