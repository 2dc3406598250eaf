// What the operations of shared-prefix attention and their kernels agree on: the shape of a call, the forest of its
// arguments, and outputs where that is none.
#pragma once

#include "attention/forest.cuh"
#include "blocks/floats.cuh"
#include "blocks/lanes.cuh"
#include "launch/operation.cuh"
#include "native/attention/check.h"
#include "native/attention/options_of_today.h"

namespace grpo::cuda {

struct AttentionShape {
  int64_t P, H, K, D, E;  // H is a multiple of K
  float scale;
};

template <class Args>
AttentionShape shape_of(const Args& args, const Axes& axes) {
  const double scale = is_null(args.scale) ? 1 / std::sqrt(static_cast<double>(axes['D'])) : args.scale;
  return {axes['P'], axes['H'], axes['K'], axes['D'], axes['E'], static_cast<float>(scale)};
}

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
