// The places where a mask is not 0, ascending. Two passes over blocks: count, then fill from each block's first number.
// The second pass writes no more than the first has counted: the mask may be another thread's to change.
#include <algorithm>

#include "interface/operation.h"

namespace grpo {
namespace {

constexpr int64_t kBlock = 1 << 16;

// Every place is written, and the next one over it unless the mask is set: no branch to mispredict. Through a small
// buffer, since the last write goes one beyond what is kept.
void fill_block(const uint8_t* mask,  // [N]
                int32_t* index,       // [places]
                int64_t begin, int64_t end, int64_t places) {
  constexpr int64_t kBuffer = 4096;
  int32_t buffer[kBuffer + 1];
  for (int64_t i = begin; i < end;) {
    const int64_t stop = std::min(end, i + kBuffer);
    int64_t kept = 0;
    for (; i < stop; ++i) {
      buffer[kept] = static_cast<int32_t>(i);
      kept += mask[i] != 0;
    }
    kept = std::min(kept, places);
    index = std::copy_n(buffer, kept, index);
    places -= kept;
  }
}

using Args = grpo_mask_index_args;

int run(const Args& args, const Axes& axes) {
  const uint8_t* mask = data<uint8_t>(args.mask);
  int32_t* index = data<int32_t>(args.index);
  const int64_t N = axes['N'], blocks = (N + kBlock - 1) / kBlock;
  Scratch<int64_t> first(blocks + 1);
  first[0] = 0;
  parallel_for(blocks, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      const uint8_t* from = mask + b * kBlock;
      const int64_t n = std::min(kBlock, N - b * kBlock);
      first[b + 1] = n - std::count(from, from + n, 0);
    }
  });
  for (int64_t b = 0; b < blocks; ++b) first[b + 1] += first[b];
  if (index != nullptr && axes['M'] != first[blocks])
    return fail(GRPO_SHAPE, "index",
                "has length " + std::to_string(axes['M']) + ", expected " + std::to_string(first[blocks]) +
                    ", the number of values in {mask} that are not 0");
  if (args.count != nullptr) *data<double>(args.count) = static_cast<double>(first[blocks]);
  if (index == nullptr) return GRPO_OK;
  parallel_for(blocks, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b)
      fill_block(mask, index + first[b], b * kBlock, std::min(N, (b + 1) * kBlock), first[b + 1] - first[b]);
  });
  return GRPO_OK;
}

const grpo_field kFields[] = {
    GRPO_IN(mask, "u8[N]"),
    GRPO_OUT(count, "f64[1]"),
    GRPO_OUT(index, "i32[M]"),
};

}  // namespace

GRPO_OPERATION(kMaskIndex, mask_index, kFields);

}  // namespace grpo
