// What the operations of shared-prefix attention have in common: the forest and the sizes of a call, and their check.
#pragma once

#include <cmath>
#include "attention/check.h"
#include "attention/tree_layout.h"
#include "interface/operation.h"

namespace grpo {

// The forest that the tokens are packed by; from tree_layout.
struct Segments {
  const int32_t* start;   // [B+1]
  const int32_t* parent;  // [B]    -1: a root
  const int32_t* end;     // [B]    first segment after the subtree
  int64_t B;
};

struct AttentionSizes {
  int64_t P, H, K, D, E;  // H is a multiple of K
  Float type;             // of q, k, v, out and grad_out
  float scale;
};

template <class Args>
Segments segments_of(const Args& args, const Axes& axes) {
  return {data<int32_t>(args.segment_start), data<int32_t>(args.segment_parent), data<int32_t>(args.segment_end),
          axes['B']};
}

template <class Args>
AttentionSizes sizes_of(const Args& args, const Axes& axes) {
  const double scale = is_null(args.scale) ? 1 / std::sqrt(static_cast<double>(axes['D'])) : args.scale;
  return {axes['P'], axes['H'], axes['K'], axes['D'], axes['E'], float_type(args.q), static_cast<float>(scale)};
}

inline int check_layout(const Segments& segments) {
  const LayoutProblem problem = check_segments(segments.parent, segments.end, segments.B);
  return problem.argument == nullptr ? GRPO_OK : fail(GRPO_VALUE, problem.argument, problem.problem);
}

}  // namespace grpo
