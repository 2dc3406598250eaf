// What the operations of shared-prefix attention have in common: the forest, the sizes and the options of a call.
#pragma once

#include <cmath>
#include <limits>

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
  int32_t window;                     // tokens of its path that a token sees
  const int32_t* position = nullptr;  // [P]  of each token on its path, where there is a window

  bool has_window() const { return position != nullptr; }
};
constexpr int32_t kNoWindow = std::numeric_limits<int32_t>::max();

struct AttentionSizes {
  int64_t P, H, K, D, E;  // H is a multiple of K
  Float type;             // of q, k, v, out and grad_out
  float scale;
  double softcap;         // 0: none
  bool bf16;              // products of two inputs by the processor's own of bf16
  bool standard;          // those of what is computed, too
};

// q, k or v: for each token the heads, one after the other, and from one token to the next `stride` elements.
struct Heads {
  const void* data;
  int64_t stride;
};

inline Heads heads_of(const DLTensor* x) { return {data<void>(x), row_stride(x)}; }

template <class Args>
Segments segments_of(const Args& args, const Axes& axes) {
  const bool window = !is_null(args.window) && args.window < kNoWindow;
  return {data<int32_t>(args.segment_start), data<int32_t>(args.segment_parent), data<int32_t>(args.segment_end),
          axes['B'], window ? static_cast<int32_t>(args.window) : kNoWindow};
}

template <class Args>
AttentionSizes sizes_of(const Args& args, const Axes& axes) {
  const int64_t D = axes['D'];
  // Without columns all scores are 0, whatever the scale: the default would be infinite.
  const double scale = D == 0 ? 0 : is_null(args.scale) ? 1 / std::sqrt(static_cast<double>(D)) : args.scale;
  const Float type = float_type(args.q);
  const bool bf16 = type == Float::kBf16 && vector_kernels().matmul_bf16 != nullptr;
  return {axes['P'], axes['H'], axes['K'], D, axes['E'], type, static_cast<float>(scale),
          is_null(args.softcap) ? 0 : args.softcap, bf16, bf16 && args.precision != 0};
}

inline int check_layout(const Segments& segments) {
  const LayoutProblem problem = check_segments(segments.parent, segments.end, segments.B);
  return problem.argument == nullptr ? GRPO_OK : fail(GRPO_VALUE, problem.argument, problem.problem);
}

// The place of each token on its path, whose ancestors' tokens come before it.
inline void find_positions(const Segments& segments,
                           int32_t* position) {  // [P]
  Scratch<int32_t> before(segments.B);
  for (int64_t b = 0; b < segments.B; ++b) {
    const int32_t parent = segments.parent[b], start = segments.start[b];
    before[b] = parent < 0 ? 0 : before[parent] + segments.start[parent + 1] - segments.start[parent];
    for (int32_t p = start; p < segments.start[b + 1]; ++p) position[p] = before[b] + p - start;
  }
}

}  // namespace grpo
