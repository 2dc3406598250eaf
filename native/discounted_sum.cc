// The discounted sum of the values from each token to the end of its sequence. Sums are float64; 8 bytes per token.
//
// A step y = x + decay * y waits for the one before it, some seven cycles. So a block of tokens is summed on its own
// first, as if nothing followed it, and beside that the factor is formed that what does follow comes with: blocks then
// wait for each other once, not token by token (one core of an AMD EPYC: 0.65 ns per token, against 1.62). Blocks are
// counted from the end of the sequence, so that the bits depend on nothing but its own values.
#include <cstring>

#include "interface/operation.h"

namespace grpo {
namespace {

constexpr int64_t kBlock = 4;

// The block x[0] .. x[n - 1] (n <= kBlock), followed by the running sum `after`; returns the running sum at its first
// token. A masked value is selected away bit by bit, since 0 * NaN is NaN.
template <bool kMasked>
inline __attribute__((always_inline)) double sum_block(const float* x,       // [n]
                                                       const uint8_t* mask,  // [n], kMasked only
                                                       float* y,             // [n]
                                                       int64_t n, double decay, double after) {
  double own[kBlock], factor[kBlock];
  double sum = 0, product = 1;
  for (int64_t i = n; i-- > 0;) {
    const uint32_t live = !kMasked || mask[i] != 0;
    uint32_t bits;
    std::memcpy(&bits, x + i, sizeof bits);
    bits &= 0 - live;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    const double step = live ? decay : 1;
    own[i] = sum = value + step * sum;
    factor[i] = product = step * product;
  }
  for (int64_t i = 0; i < n; ++i) {
    const float whole = static_cast<float>(own[i] + factor[i] * after);
    y[i] = !kMasked || mask[i] != 0 ? whole : 0;
  }
  return own[0] + factor[0] * after;
}

template <bool kMasked>
void discounted_sum(const float* x,       // [n]
                    const uint8_t* mask,  // [n], kMasked only
                    float* y,             // [n]
                    int64_t n, double decay) {
  double after = 0;
  // The factor of a block would run down to 0, and make NaN of an infinity that follows: then token by token.
  const bool tiny = decay > 0 && decay < 0x1p-250;
  for (; n >= kBlock && !tiny; n -= kBlock) {
    const int64_t i = n - kBlock;
    after = sum_block<kMasked>(x + i, kMasked ? mask + i : nullptr, y + i, kBlock, decay, after);
  }
  for (int64_t size = tiny ? 1 : n; n > 0; n -= size) {
    const int64_t i = n - size;
    after = sum_block<kMasked>(x + i, kMasked ? mask + i : nullptr, y + i, size, decay, after);
  }
}

using Args = grpo_discounted_sum_args;

int run(const Args& args, const Axes& axes) {
  const float* x = data<float>(args.x);
  const int32_t* start = data<int32_t>(args.sequence_start);
  const uint8_t* mask = data<uint8_t>(args.mask);
  float* y = data<float>(args.out_x);
  if (y == nullptr) return GRPO_OK;
  parallel_for(axes['S'], 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t s = begin; s < end; ++s) {
      const int64_t t = start[s];
      if (mask == nullptr) discounted_sum<false>(x + t, nullptr, y + t, start[s + 1] - t, args.decay);
      else discounted_sum<true>(x + t, mask + t, y + t, start[s + 1] - t, args.decay);
    }
  });
  return GRPO_OK;
}

const grpo_field kFields[] = {
    GRPO_IN(x, "f32[T]"),
    GRPO_IN(sequence_start, "i32[S+1] offsets T"),
    GRPO_IN(mask, "u8[T] ?"),
    GRPO_OUT_AS(x, out_x, "f32[T]"),
    GRPO_OPT(decay, "number = 1 0..1"),
};

}  // namespace

GRPO_OPERATION(kDiscountedSum, discounted_sum, kFields);

}  // namespace grpo
