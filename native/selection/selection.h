// What selectRollouts and selectTokens share: how many are kept.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "formulas/formula.h"
#include "interface/operation.h"

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

// For the variance of a set: an infinite score counts as 2^128, beyond all finite ones, since the variance of a set
// with one does not exist. Those are counted apart: in one number with them the digits of the others would be lost.
struct WideScore {
  double finite = 0, infinite = 0;  // their sum, and the number of +inf less that of -inf
};
GRPO_FORMULA WideScore operator+(WideScore a, WideScore b) { return {a.finite + b.finite, a.infinite + b.infinite}; }
GRPO_FORMULA WideScore operator-(WideScore a, WideScore b) { return {a.finite - b.finite, a.infinite - b.infinite}; }

GRPO_FORMULA WideScore wide_score(float score) {
  if (score - score == 0) return {score, 0};
  return {0, score > 0 ? 1.0 : -1.0};
}

// The second factor of what an exchange adds, see largest_of_max_variance: k (l + s) - 2 sum - (l - s).
GRPO_FORMULA double exchange_gain(WideScore l, WideScore s, WideScore sum, int64_t k) {
  const double n = static_cast<double>(k);
  return n * (l.finite + s.finite) - 2 * sum.finite - (l.finite - s.finite) +
         0x1p128 * (n * (l.infinite + s.infinite) - 2 * sum.infinite - (l.infinite - s.infinite));
}

}  // namespace grpo
