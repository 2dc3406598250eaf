// The temperature of a row of logits, that of the call times the row's own where it is given, and the soft-cap, for both
// backends. With a soft-cap c the softmax is that of c tanh(logit / c) / temperature. It works on tanh(logit / c), and c
// goes into the scale: so no digit is lost to the product, and the derivative 1 - tanh^2 is at hand.
#pragma once

#include "formulas/formula.h"
#include "interface/operation.h"

namespace grpo {

struct Temperature {
  double whole;
  const float* of_row;  // [R], may be null
  double softcap;       // 0: none
};

template <class Args>
Temperature temperature_of(const Args& args) {
  return {args.temperature, data<float>(args.row_temperature), is_null(args.softcap) ? 0 : args.softcap};
}

// Whether float32 can hold x with its inverse, as the options' numbers have to be.
GRPO_FORMULA bool has_inverse(double x) { return x >= 0x1p-126 && x <= 0x1p126; }

// What the softmax multiplies what it works on by, where the temperature is `product`.
GRPO_FORMULA double scale_of(const Temperature& temperature, double product) {
  return (temperature.softcap == 0 ? 1 : temperature.softcap) / product;
}

GRPO_FORMULA bool is_temperature(const Temperature& temperature, int64_t r) {
  if (temperature.of_row == nullptr) return true;
  const double own = temperature.of_row[r], product = temperature.whole * own;
  return own > 0 && has_inverse(product) && has_inverse(scale_of(temperature, product));
}

// NaN for what is no temperature, which is found before the call on the host alone.
GRPO_FORMULA float scale_of_row(const Temperature& temperature, int64_t r) {
  if (temperature.of_row == nullptr) return static_cast<float>(scale_of(temperature, temperature.whole));
  if (!is_temperature(temperature, r)) return NAN;
  return static_cast<float>(scale_of(temperature, temperature.whole * temperature.of_row[r]));
}

// 1 / softcap in two parts, so that a logit over it is rounded once, and the logit from which on the tangent is 1 to the
// last digit; all 0: there is no soft-cap.
struct InverseCap {
  float high, low, saturated;
};

GRPO_FORMULA InverseCap inverse_cap(const Temperature& temperature) {
  if (temperature.softcap == 0) return {0, 0, 0};
  const double inverse = 1 / temperature.softcap;
  const float high = static_cast<float>(inverse);
  const double saturated = 43.6 * temperature.softcap;  // e^-87.2 is a float32 that is not subnormal
  return {high, static_cast<float>(inverse - high), static_cast<float>(saturated < 3e38 ? saturated : 3e38)};
}

// The derivative of tanh where that is t. A logit of -inf is masked, not capped: there t is -inf too.
GRPO_FORMULA double cap_slope(double t) { return t == -INFINITY ? 0 : 1 - t * t; }

}  // namespace grpo
