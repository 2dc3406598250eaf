// The difference of log-probabilities, 0 where masked. 12 bytes per token, 13 with a mask.
#include <bit>

#include "interface/operation.h"

namespace grpo {
namespace {

void log_ratio(const float* x,       // [n]
               const float* y,       // [n]
               const uint8_t* mask,  // [n], may be null
               float* difference,    // [n]
               int64_t n) {
  if (mask == nullptr) {
    for (int64_t t = 0; t < n; ++t) difference[t] = x[t] - y[t];
    return;
  }
  // The mask is bits and not a branch, which a random mask would mispredict.
  for (int64_t t = 0; t < n; ++t)
    difference[t] = std::bit_cast<float>(std::bit_cast<uint32_t>(x[t] - y[t]) & (0u - (mask[t] != 0)));
}

using Args = grpo_log_ratio_args;

int run(const Args& args, const Axes& axes) {
  float* difference = data<float>(args.log_ratio);
  if (difference == nullptr) return GRPO_OK;
  const float *x = data<float>(args.x), *y = data<float>(args.y);
  const uint8_t* mask = data<uint8_t>(args.mask);
  parallel_for(axes['T'], 1 << 15, [&](int64_t begin, int64_t end, int) {
    log_ratio(x + begin, y + begin, mask == nullptr ? nullptr : mask + begin, difference + begin, end - begin);
  });
  return GRPO_OK;
}

const grpo_field kFields[] = {
    GRPO_IN(x, "f32[T]"),
    GRPO_IN(y, "f32[T]"),
    GRPO_IN(mask, "u8[T] ?"),
    GRPO_OUT(log_ratio, "f32[T]"),
};

}  // namespace

GRPO_OPERATION(kLogRatio, log_ratio, kFields);

}  // namespace grpo
