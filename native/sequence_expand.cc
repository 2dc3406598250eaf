// The value of each sequence at its unmasked tokens, 0 at the others: the transpose of sequence_sum. 4 bytes per token.
#include <algorithm>

#include "interface/operation.h"

namespace grpo {
namespace {

void sequence_expand(float value,
                     const uint8_t* mask,  // [n], may be null
                     float* expanded,      // [n]
                     int64_t n, bool mean) {
  if (mean) {
    const int64_t count = mask == nullptr ? n : n - std::count(mask, mask + n, 0);
    value = count == 0 ? 0 : static_cast<float>(value / static_cast<double>(count));
  }
  for (int64_t i = 0; i < n; ++i) expanded[i] = mask == nullptr || mask[i] != 0 ? value : 0;
}

using Args = grpo_sequence_expand_args;

int run(const Args& args, const Axes& axes) {
  const float* x = data<float>(args.x);
  const int32_t* start = data<int32_t>(args.sequence_start);
  const uint8_t* mask = data<uint8_t>(args.mask);
  float* expanded = data<float>(args.out_x);
  if (expanded == nullptr) return GRPO_OK;
  parallel_for(axes['S'], 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t s = begin; s < end; ++s) {
      const int64_t t = start[s];
      sequence_expand(x[s], mask == nullptr ? nullptr : mask + t, expanded + t, start[s + 1] - t, args.mean != 0);
    }
  });
  return GRPO_OK;
}

const grpo_field kFields[] = {
    GRPO_IN(x, "f32[S]"),
    GRPO_IN(sequence_start, "i32[S+1] offsets T"),
    GRPO_IN(mask, "u8[T] ?"),
    GRPO_OUT_AS(x, out_x, "f32[T]"),
    GRPO_OPT(mean, "boolean = false"),
};

}  // namespace

GRPO_OPERATION(kSequenceExpand, sequence_expand, kFields);

}  // namespace grpo
