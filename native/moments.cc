// Count, mean and sum of squared distances of a whole batch. Blocks of a fixed length, each read twice (the second time
// from cache), merged in their order: the bits do not depend on the number of threads. 4 bytes per value.
#include "formulas/moments.h"

#include "interface/operation.h"

namespace grpo {
namespace {

constexpr int64_t kBlock = 1 << 14;  // 64 KiB: stays in the second-level cache between the two passes

Moments batch_moments(const float* x,       // [N]
                      const uint8_t* mask,  // [N], may be null
                      Moments* of_block,    // [(N + kBlock - 1) / kBlock], scratch
                      int64_t N) {
  parallel_for(N, kBlock, [&](int64_t begin, int64_t end, int) {
    of_block[begin / kBlock] = moments_of(x + begin, mask == nullptr ? nullptr : mask + begin, end - begin);
  });
  Moments all;
  for (int64_t block = 0; block * kBlock < N; ++block) all = merge(all, of_block[block]);
  return all;
}

using Args = grpo_moments_args;

int run(const Args& args, const Axes& axes) {
  if (args.moments == nullptr) return GRPO_OK;
  const int64_t N = axes['N'];
  Scratch<Moments> of_block((N + kBlock - 1) / kBlock);
  const Moments all = batch_moments(data<float>(args.x), data<uint8_t>(args.mask), of_block.data(), N);
  double* out = data<double>(args.moments);
  out[0] = all.count, out[1] = all.mean, out[2] = all.m2;
  return GRPO_OK;
}

const grpo_field kFields[] = {
    GRPO_IN(x, "f32[N]"),
    GRPO_IN(mask, "u8[N] ?"),
    GRPO_OUT(moments, "f64[3]"),
};

}  // namespace

GRPO_OPERATION(kMoments, moments, kFields);

}  // namespace grpo
