// Sorts rollouts by group id: a stable radix sort of (id, place) by the id's four bytes, of which those that are the
// same everywhere are passed over. Memory: 12 bytes per rollout, the call's copy of the ids included.
#include <algorithm>
#include <utility>

#include "interface/operation.h"

namespace grpo {
namespace {

// Ascending as int32.
uint32_t key_of(int32_t id) { return static_cast<uint32_t>(id) ^ 0x80000000u; }

void sort_by_id(const int32_t* ids,  // [N]
                int32_t* order,      // [N]
                int32_t* other,      // [N], scratch
                int64_t N) {
  for (int64_t i = 0; i < N; ++i) order[i] = static_cast<int32_t>(i);
  int32_t *from = order, *to = other;
  for (int shift = 0; shift < 32; shift += 8) {
    int64_t place[257] = {};
    for (int64_t i = 0; i < N; ++i) ++place[((key_of(ids[i]) >> shift) & 255) + 1];
    if (std::find(place + 1, place + 257, N) != place + 257) continue;
    for (int digit = 0; digit < 256; ++digit) place[digit + 1] += place[digit];
    for (int64_t i = 0; i < N; ++i) to[place[(key_of(ids[from[i]]) >> shift) & 255]++] = from[i];
    std::swap(from, to);
  }
  if (from != order) std::copy(from, from + N, order);
}

using Args = grpo_group_by_args;

int run(const Args& args, const Axes& axes) {
  const int32_t* ids = data<int32_t>(args.ids);
  int32_t *order = data<int32_t>(args.order), *group_start = data<int32_t>(args.group_start);
  const int64_t N = axes['N'];
  Scratch<int32_t> sorted(N), other(N);
  sort_by_id(ids, sorted.data(), other.data(), N);
  int64_t groups = 0;
  const auto begins_group = [&](int64_t i) { return i == 0 || ids[sorted[i]] != ids[sorted[i - 1]]; };
  for (int64_t i = 0; i < N; ++i) groups += begins_group(i);
  if (group_start != nullptr && axes['G'] != groups)
    return fail(GRPO_SHAPE, "group_start", "has length " + std::to_string(axes['G'] + 1) + ", expected " +
                                               std::to_string(groups + 1) + ", one more than the different {ids}");
  if (args.count != nullptr) *data<double>(args.count) = static_cast<double>(groups);
  if (order != nullptr) std::copy_n(sorted.data(), N, order);
  if (group_start != nullptr) {
    int64_t g = 0;
    for (int64_t i = 0; i < N; ++i)
      if (begins_group(i)) group_start[g++] = static_cast<int32_t>(i);
    group_start[g] = static_cast<int32_t>(N);
  }
  return GRPO_OK;
}

const grpo_field kFields[] = {
    GRPO_IN(ids, "i32[N]"),
    GRPO_OUT(count, "f64[1]"),
    GRPO_OUT(order, "i32[N]"),
    GRPO_OUT(group_start, "i32[G+1]"),
};

}  // namespace

GRPO_OPERATION(kGroupBy, group_by, kFields);

}  // namespace grpo
