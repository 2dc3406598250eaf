// What the operations of shared-prefix attention and their kernels agree on: the shape of a call, its tensors, the
// forest of its arguments, and outputs where that is none.
#pragma once

#include "attention/forest.cuh"
#include "blocks/floats.cuh"
#include "blocks/lanes.cuh"
#include "blocks/rows.cuh"
#include "blocks/softcap.cuh"
#include "launch/operation.cuh"
#include "native/attention/check.h"

namespace grpo::cuda {

struct AttentionShape {
  int64_t P, H, K, D, E;  // H is a multiple of K
  float scale;
  float softcap;     // 0: none
  InverseCap inverse;
  // What a product of q and k is worth in a score, without the sign of the scale, and as powers of two; with a soft-cap
  // what its tangent is worth.
  float per_score, per_score2;
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

// Items that have to be done again without matrix instructions: tile by tile, `heads` heads at a time. Without marks
// all.
struct Again {
  const uint8_t* marks;  // [tiles, H / heads], may be null
  int32_t heads;
  __device__ __forceinline__ bool wants(int64_t tile, int64_t head, int64_t H) const {
    return marks == nullptr || marks[tile * (H / heads) + head / heads] != 0;
  }
};

int32_t* find_positions(const Forest& forest, Launch& on);  // in schedule.cu

template <class Args>
AttentionShape shape_of(const Args& args, const Axes& axes) {
  const double scale = is_null(args.scale) ? 1 / std::sqrt(static_cast<double>(axes['D'])) : args.scale;
  const double cap = is_null(args.softcap) ? 0 : args.softcap;
  const float rounded = static_cast<float>(scale), worth = cap > 0 ? static_cast<float>(cap) : std::fabs(rounded);
  return {axes['P'], axes['H'], axes['K'], axes['D'], axes['E'], rounded, static_cast<float>(cap),
          inverse_cap({1, nullptr, cap}), worth, worth * 1.44269504f};
}

// tanh(score / softcap), of -infinity too: nothing is masked here.
__device__ __forceinline__ float tangent_of(float score, const AttentionShape& shape) {
  return softcapped(score == -INFINITY ? -3e38f : score, shape.inverse);
}

// A score before its soft-cap, capped; `slope`: the derivative.
__device__ __forceinline__ float capped(float score, const AttentionShape& shape, float& slope) {
  const float tangent = tangent_of(score, shape);
  slope = softcap_slope(tangent);
  return shape.softcap * tangent;
}

inline Heads heads_of(const DLTensor* x) { return {data<void>(x), x == nullptr ? 0 : row_stride(x)}; }

// The forest of a call, and where there is a window the places of its tokens.
template <class Args>
Forest forest_of(const Args& args, const Axes& axes, Launch& on) {
  const bool window = !is_null(args.window) && args.window < axes['P'];
  Forest forest{data<int32_t>(args.segment_start), data<int32_t>(args.segment_parent), data<int32_t>(args.segment_end),
                axes['B'], axes['P'], window ? static_cast<int32_t>(args.window) : kNoWindow, nullptr};
  if (window) forest.position = find_positions(forest, on);
  return forest;
}

// Rows of n numbers, a stride apart.
__device__ __forceinline__ void fill_nan(void* data, Float type, int64_t rows, int64_t n, int64_t stride) {
  if (data == nullptr) return;
  for (int64_t i = thread_index(); i < rows * n; i += int64_t{gridDim.x} * blockDim.x)
    store_float(data, type, i / n * stride + i % n, NAN);
}

}  // namespace grpo::cuda
