// Centres and scales a batch by statistics that were gathered before, perhaps on several ranks. 8 bytes per value.
#include <cmath>

#include "formulas/moments.h"
#include "interface/operation.h"

namespace grpo {
namespace {

void standardize(const float* x,       // [n]
                 const uint8_t* mask,  // [n], may be null
                 float* out,           // [n]
                 int64_t n, double center, double divisor) {
  // A product, of which a processor forms several in the time of a quotient; rounded to float32 the two agree but for one
  // value in 2^28, and a value at exactly one standard deviation gives exactly 1. The inverse of a divisor that is not
  // normal could be infinite. The mask is bits and not a branch, which a random mask would mispredict.
  const double inverse = 1 / divisor;
  const auto standardized = [&](auto one) {
    if (mask == nullptr) {
      for (int64_t i = 0; i < n; ++i) out[i] = one(i);
    } else {
      for (int64_t i = 0; i < n; ++i)
        out[i] = std::bit_cast<float>(std::bit_cast<uint32_t>(one(i)) & (0u - (mask[i] != 0)));
    }
  };
  if (std::isnormal(inverse)) standardized([&](int64_t i) { return static_cast<float>((x[i] - center) * inverse); });
  else standardized([&](int64_t i) { return static_cast<float>((x[i] - center) / divisor); });
}

using Args = grpo_standardize_args;

int run(const Args& args, const Axes& axes) {
  const double* given = data<double>(args.moments);
  const Moments moments{given[0], given[1], given[2]};
  if (!(moments.count >= 0)) return fail(GRPO_VALUE, "moments", "has a count that is negative or NaN");
  if (moments.m2 < 0) return fail(GRPO_VALUE, "moments", "has a negative m2, but a sum of squares is at least 0");
  if (args.out_x == nullptr) return GRPO_OK;
  const double divisor = divisor_of(variance(moments, args.ddof), args.eps, args.eps_under_root != 0);
  const double center = args.center != 0 ? moments.mean : 0;
  const float* x = data<float>(args.x);
  const uint8_t* mask = data<uint8_t>(args.mask);
  float* out = data<float>(args.out_x);
  parallel_for(axes['N'], 1 << 15, [&](int64_t begin, int64_t end, int) {
    standardize(x + begin, mask == nullptr ? nullptr : mask + begin, out + begin, end - begin, center, divisor);
  });
  return GRPO_OK;
}

const grpo_field kFields[] = {
    GRPO_IN(x, "f32[N]"),
    GRPO_IN(mask, "u8[N] ?"),
    GRPO_IN(moments, "f64[3]"),
    GRPO_OUT_AS(x, out_x, "f32[N]"),
    GRPO_OPT(ddof, "integer = 1 0..1"),
    GRPO_OPT(eps, "number = 1e-8 >= 0"),
    GRPO_OPT(eps_under_root, "boolean = false"),
    GRPO_OPT(center, "boolean = true"),
};

}  // namespace

GRPO_OPERATION(kStandardize, standardize, kFields);

}  // namespace grpo
