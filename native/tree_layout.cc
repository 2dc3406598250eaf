#include "attention/tree_layout.h"

#include <algorithm>

#include "interface/operation.h"

namespace grpo {
namespace {

constexpr int64_t kLimit = int64_t{1} << 31;

std::string value_at(int64_t value, int64_t index) {
  return "has " + std::to_string(value) + " at " + std::to_string(index) + ", expected ";
}

// Depth-first order: a parent lies on the path from a root to the segment before. The walks up that path cost O(B) in
// all, because what one walk leaves behind is never on the path again.
LayoutProblem check_parents(const char* argument, const int32_t* parent, int64_t B) {
  for (int64_t b = 0; b < B; ++b) {
    int64_t on_path = b - 1;
    while (on_path >= 0 && on_path != parent[b]) on_path = parent[on_path];
    if (on_path == parent[b]) continue;
    const std::string before = std::to_string(b - 1);
    return {argument, value_at(parent[b], b) +
                          (b == 0 ? "-1: the first segment is a root"
                                  : "-1, " + before + " or an ancestor of " + before +
                                        ": segments stand in depth-first order")};
  }
  return {};
}

int64_t root_of(const int32_t* parent, int64_t segment) {
  while (parent[segment] >= 0) segment = parent[segment];
  return segment;
}

bool ends_sequence(const int32_t* parent, int64_t b, int64_t B) {
  return parent[b] >= 0 && (b + 1 == B || parent[b + 1] != b);
}

// Calls f(last segment) for each sequence in turn, until f returns false.
template <class F>
void for_each_sequence(const int32_t* parent, const int32_t* end, int64_t B, int64_t N, F&& f) {
  if (end != nullptr) {
    for (int64_t i = 0; i < N; ++i)
      if (!f(int64_t{end[i]})) return;
  } else {
    for (int64_t b = 0; b < B; ++b)
      if (ends_sequence(parent, b, B) && !f(b)) return;
  }
}

}  // namespace

LayoutProblem tree_layout_sizes(const int32_t* length, const int32_t* parent, const int32_t* end, LayoutSizes* sizes,
                                int64_t B, int64_t N) {
  *sizes = {};
  for (int64_t b = 0; b < B; ++b) {
    if (length[b] < 0) return {"length", value_at(length[b], b) + "at least 0"};
    sizes->P += length[b];
    sizes->G += parent[b] < 0;
  }
  if (sizes->P >= kLimit)
    return {"length", "has the sum " + std::to_string(sizes->P) + ", expected less than 2147483648 packed tokens"};
  if (LayoutProblem problem = check_parents("parent", parent, B); problem.argument != nullptr) return problem;

  if (end != nullptr) {
    int64_t root = 0;
    for (int64_t i = 0; i < N; ++i) {
      if (end[i] < 0 || end[i] >= B)
        return {"end", value_at(end[i], i) +
                           (B == 0 ? "no entry, because there are no segments"
                                   : "0 to " + std::to_string(B - 1) + " (B = " + std::to_string(B) +
                                         " from {length})")};
      const int64_t next = root_of(parent, end[i]);
      if (next < root)
        return {"end", value_at(end[i], i) + "a segment of root " + std::to_string(root) +
                           " or a later one, as before it: sequences stand in the order of their roots"};
      root = next;
    }
  }
  for_each_sequence(parent, end, B, N, [&](int64_t segment) {
    for (; parent[segment] >= 0; segment = parent[segment]) sizes->T += length[segment];
    ++sizes->N;
    return sizes->T < kLimit;
  });
  if (sizes->T >= kLimit)
    return {end != nullptr ? "end" : "length",
            "gives the first " + std::to_string(sizes->N) + " sequences " + std::to_string(sizes->T) +
                " loss tokens, expected less than 2147483648 in all"};
  return {};
}

void tree_layout(const int32_t* length, const int32_t* parent, const int32_t* end, int32_t* segment_start,
                 int32_t* segment_end, int32_t* position, int32_t* group_start, int32_t* sequence_start, int32_t* row,
                 int32_t* place, int64_t B, const LayoutSizes& sizes) {
  Scratch<int32_t> start(B + 1);
  start[0] = 0;
  for (int64_t b = 0; b < B; ++b) start[b + 1] = start[b] + length[b];
  if (segment_start != nullptr) std::copy_n(start.data(), B + 1, segment_start);

  if (segment_end != nullptr) {
    for (int64_t b = 0; b < B; ++b) segment_end[b] = static_cast<int32_t>(b + 1);
    for (int64_t b = B - 1; b >= 0; --b)
      if (parent[b] >= 0) segment_end[parent[b]] = std::max(segment_end[parent[b]], segment_end[b]);
  }

  if (position != nullptr) {
    Scratch<int32_t> depth(B);  // tokens on the path before a segment
    for (int64_t b = 0; b < B; ++b) {
      depth[b] = parent[b] < 0 ? 0 : depth[parent[b]] + length[parent[b]];
      for (int32_t j = 0; j < length[b]; ++j) position[start[b] + j] = depth[b] + j;
    }
  }

  if (group_start != nullptr) {
    // Sequences are counted at their root's number plus one, then summed.
    Scratch<int32_t> group(B);
    int32_t groups = 0;
    for (int64_t b = 0; b < B; ++b) group[b] = parent[b] < 0 ? groups++ : group[parent[b]];
    std::fill_n(group_start, sizes.G + 1, 0);
    for_each_sequence(parent, end, B, sizes.N, [&](int64_t segment) {
      ++group_start[group[segment] + 1];
      return true;
    });
    for (int64_t g = 0; g < sizes.G; ++g) group_start[g + 1] += group_start[g];
  }

  int64_t sequence = 0;
  int64_t t = 0;  // first loss token of the sequence
  if (sequence_start != nullptr) sequence_start[0] = 0;
  for_each_sequence(parent, end, B, sizes.N, [&](int64_t last) {
    int64_t tokens = 0;
    for (int64_t b = last; parent[b] >= 0; b = parent[b]) tokens += length[b];
    int64_t at = t + tokens;  // the path is walked from its end
    for (int64_t b = last;; b = parent[b]) {
      const bool root = parent[b] < 0;
      for (int32_t j = length[b]; j > 0; --j) {
        const int32_t packed = start[b] + j - 1;
        if (row != nullptr && at < t + tokens) row[at] = packed;
        if (root) break;
        --at;
        if (place != nullptr) place[at] = packed;
      }
      if (!root) continue;
      if (row != nullptr && length[b] == 0 && tokens > 0) row[t] = -1;
      break;
    }
    t += tokens;
    ++sequence;
    if (sequence_start != nullptr) sequence_start[sequence] = static_cast<int32_t>(t);
    return true;
  });
}

LayoutProblem check_segments(const int32_t* segment_parent, const int32_t* segment_end, int64_t B) {
  if (LayoutProblem problem = check_parents("segment_parent", segment_parent, B); problem.argument != nullptr)
    return problem;
  for (int64_t b = B - 1; b >= 0; --b) {
    int64_t end = b + 1;
    while (end < B && segment_parent[end] == b) end = segment_end[end];
    if (segment_end[b] != end)
      return {"segment_end", value_at(segment_end[b], b) + std::to_string(end) +
                                 ", the first segment after the subtree that {segment_parent} describes"};
  }
  return {};
}

// ---- the C interface ------------------------------------------------------------------------------------------------

namespace {

using Args = grpo_tree_layout_args;

// The lengths of outputs that only the contents of the inputs give.
int check_lengths(const Args& args, const LayoutSizes& sizes) {
  const struct {
    const char* name;
    const DLTensor* tensor;
    int64_t length;
    const char* axis;
  } outputs[] = {{"position", args.position, sizes.P, "P"},
                 {"group_start", args.group_start, sizes.G + 1, "G + 1"},
                 {"sequence_start", args.sequence_start, sizes.N + 1, "N + 1"},
                 {"row", args.row, sizes.T, "T"},
                 {"place", args.place, sizes.T, "T"}};
  for (const auto& [name, tensor, length, axis] : outputs)
    if (tensor != nullptr && tensor->shape[0] != length)
      return fail(GRPO_SHAPE, name, "has length " + std::to_string(tensor->shape[0]) + ", expected " +
                                        std::to_string(length) + " (" + axis + ", as {sizes} says)");
  return GRPO_OK;
}

int run(const Args& args, const Axes& axes) {
  const int32_t *length = data<int32_t>(args.length), *parent = data<int32_t>(args.parent);
  const int32_t none = 0;  // an `end` of length 0 may have no memory, but is not absent
  const int32_t* end = data<int32_t>(args.end);
  if (args.end != nullptr && end == nullptr) end = &none;
  LayoutSizes sizes;
  const LayoutProblem problem = tree_layout_sizes(length, parent, end, &sizes, axes['B'], axes['N']);
  if (problem.argument != nullptr) return fail(GRPO_VALUE, problem.argument, problem.problem);
  if (int status = check_lengths(args, sizes)) return status;
  if (args.sizes != nullptr) {
    int32_t* counts = data<int32_t>(args.sizes);
    counts[0] = static_cast<int32_t>(sizes.P), counts[1] = static_cast<int32_t>(sizes.N);
    counts[2] = static_cast<int32_t>(sizes.T), counts[3] = static_cast<int32_t>(sizes.G);
  }
  tree_layout(length, parent, end, data<int32_t>(args.segment_start), data<int32_t>(args.segment_end),
              data<int32_t>(args.position), data<int32_t>(args.group_start), data<int32_t>(args.sequence_start),
              data<int32_t>(args.row), data<int32_t>(args.place), axes['B'], sizes);
  return GRPO_OK;
}

const grpo_field kFields[] = {
    GRPO_IN(length, "i32[B]"),
    GRPO_IN(parent, "i32[B]"),
    GRPO_IN(end, "i32[N] ?"),
    GRPO_OUT(sizes, "i32[4]"),
    GRPO_OUT(segment_start, "i32[B+1]"),
    GRPO_OUT(segment_end, "i32[B]"),
    GRPO_OUT(position, "i32[P]"),
    GRPO_OUT(group_start, "i32[G+1]"),
    GRPO_OUT(sequence_start, "i32[N+1]"),
    GRPO_OUT(row, "i32[T]"),
    GRPO_OUT(place, "i32[T]"),
};

}  // namespace

GRPO_OPERATION(kTreeLayout, tree_layout, kFields);

}  // namespace grpo
