// Sum or mean of the unmasked values of each sequence. A sequence is summed in blocks of fixed size, in float64, so
// that one long sequence uses all threads and the bits depend on nothing but its own values. 4 bytes per token.
#include <algorithm>

#include "formulas/lane_sums.h"
#include "interface/operation.h"

namespace grpo {
namespace {

constexpr int64_t kBlock = 1 << 16;

struct Sum {
  double total;
  int64_t count;
};

Sum sum_block(const float* x,       // [n]
              const uint8_t* mask,  // [n], may be null
              int64_t n) {
  LaneSums sums;
  sums.add(x, mask, n);
  return {sums.total(), sums.count};
}

using Args = grpo_sequence_sum_args;

int run(const Args& args, const Axes& axes) {
  const float* x = data<float>(args.x);
  const int32_t* start = data<int32_t>(args.sequence_start);
  const uint8_t* mask = data<uint8_t>(args.mask);
  float* sum = data<float>(args.out_x);
  if (sum == nullptr) return GRPO_OK;
  const int64_t S = axes['S'];
  const auto blocks = [&](int64_t s) { return (start[s + 1] - start[s] + kBlock - 1) / kBlock; };

  Scratch<int64_t> first(S + 1);  // number of the first block of each sequence
  first[0] = 0;
  for (int64_t s = 0; s < S; ++s) first[s + 1] = first[s] + blocks(s);
  Scratch<Sum> block(first[S]);
  parallel_for(first[S], 16, [&](int64_t begin, int64_t end, int) {
    int64_t s = std::upper_bound(&first[0], &first[S] + 1, begin) - &first[0] - 1;
    for (int64_t b = begin; b < end; ++b) {
      while (first[s + 1] <= b) ++s;
      const int64_t t = start[s] + (b - first[s]) * kBlock;
      block[b] = sum_block(x + t, mask == nullptr ? nullptr : mask + t, std::min<int64_t>(kBlock, start[s + 1] - t));
    }
  });
  for (int64_t s = 0; s < S; ++s) {
    Sum whole{0, 0};
    for (int64_t b = first[s]; b < first[s + 1]; ++b)
      whole = {whole.total + block[b].total, whole.count + block[b].count};
    const bool mean = args.mean != 0 && whole.count > 0;
    sum[s] = static_cast<float>(mean ? whole.total / static_cast<double>(whole.count) : whole.total);
  }
  return GRPO_OK;
}

const grpo_field kFields[] = {
    GRPO_IN(x, "f32[T]"),
    GRPO_IN(sequence_start, "i32[S+1] offsets T"),
    GRPO_IN(mask, "u8[T] ?"),
    GRPO_OUT_AS(x, out_x, "f32[S]"),
    GRPO_OPT(mean, "boolean = false"),
};

}  // namespace

GRPO_OPERATION(kSequenceSum, sequence_sum, kFields);

}  // namespace grpo
