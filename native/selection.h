// What selectRollouts and selectTokens share: how many are kept.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "operation.h"

namespace grpo {

// Exactly one of `count` and `fraction` says how many.
inline int check_selection(int64_t count, double fraction) {
  if (is_null(count) && is_null(fraction))
    return fail(GRPO_OPTION, "count", "is missing, and so is {fraction}: expected one of the two");
  if (!is_null(count) && !is_null(fraction))
    return fail(GRPO_OPTION, "fraction", "is given together with {count}: expected one of the two");
  return GRPO_OK;
}

// Of n. 1e-9 absorbs the rounding of the product: 0.07 of 100 is 7 and not 8.
inline int64_t selected_count(int64_t n, int64_t count, double fraction) {
  if (!is_null(count)) return std::min(count, n);
  // volatile: fused with the subtraction, the product would not be rounded to float64, and large n would differ between
  // processors.
  const volatile double share = fraction * static_cast<double>(n);
  return std::min(n, std::max<int64_t>(1, static_cast<int64_t>(std::ceil(share - 1e-9))));
}

}  // namespace grpo
