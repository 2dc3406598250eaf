// The temperature of a row of logits, for both backends: that of the call, times the row's own where it is given.
#pragma once

#include "formulas/formula.h"
#include "interface/operation.h"

namespace grpo {

struct Temperature {
  double whole;
  const float* of_row;  // [R], may be null
};

template <class Args>
Temperature temperature_of(const Args& args) {
  return {args.temperature, data<float>(args.row_temperature)};
}

// Whether float32 can hold it with its inverse, as the option's number has to be.
GRPO_FORMULA bool is_temperature(const Temperature& temperature, int64_t r) {
  if (temperature.of_row == nullptr) return true;
  const double own = temperature.of_row[r], product = temperature.whole * own;
  return own > 0 && product >= 0x1p-126 && product <= 0x1p126;
}

// 1 / temperature. NaN for what is none, which is found before the call on the host alone.
GRPO_FORMULA float scale_of_row(const Temperature& temperature, int64_t r) {
  if (temperature.of_row == nullptr) return static_cast<float>(1 / temperature.whole);
  return is_temperature(temperature, r) ? static_cast<float>(1 / (temperature.whole * temperature.of_row[r])) : NAN;
}

}  // namespace grpo
