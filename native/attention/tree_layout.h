// Packed layouts of token trees: a forest of B segments in depth-first order, roots with parent -1.
// A prompt with its responses is a tree of depth two; segments may be empty.
#pragma once

#include <cstdint>
#include <string>

namespace grpo {

// What is wrong with an array, with names of arrays in {braces}; argument null: nothing.
struct LayoutProblem {
  const char* argument = nullptr;
  std::string problem;
};

struct LayoutSizes {
  int64_t P;  // packed tokens
  int64_t N;  // sequences
  int64_t T;  // loss tokens
  int64_t G;  // groups, one per root
};

// Checks the arrays and counts. Sequence i is the path below a root to segment end[i]; without `end` there is one to
// each leaf but the roots, whose own tokens are no loss tokens: a prompt without responses has no sequence.
LayoutProblem tree_layout_sizes(const int32_t* length,  // [B]
                                const int32_t* parent,  // [B]
                                const int32_t* end,     // [N], may be null
                                LayoutSizes* sizes, int64_t B, int64_t N);

// Fills the arrays, each of which may be null (not wanted), from arguments that tree_layout_sizes accepted.
void tree_layout(const int32_t* length,   // [B]
                 const int32_t* parent,   // [B]
                 const int32_t* end,      // [N], may be null
                 int32_t* segment_start,  // [B+1]
                 int32_t* segment_end,    // [B]    first segment after the subtree
                 int32_t* position,       // [P]
                 int32_t* group_start,    // [G+1]  first sequence of each root
                 int32_t* sequence_start, // [N+1]  first loss token of each sequence
                 int32_t* row,            // [T]    packed place that predicts the token, -1 after an empty prefix
                 int32_t* place,          // [T]    packed place of the token
                 int64_t B, const LayoutSizes& sizes);

// Whether segment_parent and segment_end, as a caller hands them to attention, describe one forest.
LayoutProblem check_segments(const int32_t* segment_parent,  // [B]
                             const int32_t* segment_end,     // [B]
                             int64_t B);

}  // namespace grpo
