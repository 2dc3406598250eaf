// What selectRollouts and selectTokens share: how many are kept.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "formula.h"
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
GRPO_FORMULA int64_t selected_count(int64_t n, int64_t count, double fraction) {
  if (count >= 0) return count < n ? count : n;
  // Fused with the subtraction, the product would not be rounded to float64, and large n would differ between
  // processors.
#ifdef __CUDA_ARCH__
  const double share = __dmul_rn(fraction, static_cast<double>(n));
#else
  const volatile double share = fraction * static_cast<double>(n);
#endif
  const int64_t rounded = static_cast<int64_t>(ceil(share - 1e-9)), least = rounded > 1 ? rounded : 1;
  return least < n ? least : n;
}

}  // namespace grpo
