// Count, mean and sum of squared distances from the mean of a set of numbers: the statistics of rewards, in float64.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <numeric>

#include "formulas/formula.h"

namespace grpo {

struct Moments {
  double count = 0, mean = 0, m2 = 0;
};

// Chan, Golub and LeVeque (1983): no term cancels, however large the offset that both sets share. Two sets that each
// hold one repeated value, the same in both, keep exactly that mean and m2 = 0. Where a mean is infinite, what comes
// out does not depend on the order either: that mean, or NaN where both signs meet, and no squared distances.
GRPO_FORMULA Moments merge(const Moments& a, const Moments& b) {
  if (a.count == 0) return b;
  if (b.count == 0) return a;
  const double count = a.count + b.count, delta = a.mean == b.mean ? 0 : b.mean - a.mean;
  const bool finite = fabs(delta) < INFINITY;
  return {count, a.mean + (finite ? delta * (b.count / count) : b.mean),
          finite ? a.m2 + b.m2 + delta * delta * (a.count / count * b.count) : NAN};
}

// `copies` of one value.
GRPO_FORMULA Moments repeated(double value, double copies) { return {copies, copies > 0 ? value : 0, 0}; }

// Independent partial sums: one alone would wait for each addition to finish before the next.
constexpr int64_t kLanes = 8;

// add(lane, x[i] or 0 if masked, 1 or 0) for all i in [0, n), lane = i % kLanes. Masks are bits and not branches, so
// that a random mask costs no mispredictions and NaN under it vanishes.
template <class F>
void for_lanes(const float* x,       // [n]
               const uint8_t* mask,  // [n], may be null
               int64_t n, F add) {
  const auto one = [&](int64_t lane, int64_t i, int32_t kept) {
    add(lane, std::bit_cast<float>(std::bit_cast<uint32_t>(x[i]) & static_cast<uint32_t>(-kept)), kept);
  };
  int64_t i = 0;
  if (mask == nullptr) {
    for (; i + kLanes <= n; i += kLanes)
      for (int64_t lane = 0; lane < kLanes; ++lane) one(lane, i + lane, 1);
  } else {
    for (; i + kLanes <= n; i += kLanes)
      for (int64_t lane = 0; lane < kLanes; ++lane) one(lane, i + lane, mask[i + lane] != 0);
  }
  for (int64_t lane = 0; i + lane < n; ++lane) one(lane, i + lane, mask == nullptr || mask[i + lane] != 0);
}

// Of the unmasked x[n] in two passes: E[x^2] - E[x]^2 would lose all digits when rewards share a large offset.
// Values that are all equal have exactly that mean: the sum of 8 x 0.1 divided by 8 is not 0.1.
inline Moments moments_of(const float* x,       // [n]
                          const uint8_t* mask,  // [n], may be null
                          int64_t n) {
  int64_t first = 0;
  while (first < n && mask != nullptr && mask[first] == 0) ++first;
  if (first == n) return {};
  const uint32_t first_bits = std::bit_cast<uint32_t>(x[first]);
  double sums[kLanes] = {};
  int32_t counts[kLanes] = {};
  uint32_t unlike[kLanes] = {};
  for_lanes(x, mask, n, [&](int64_t lane, float value, int32_t kept) {
    sums[lane] += value;
    counts[lane] += kept;
    unlike[lane] |= std::bit_cast<uint32_t>(value) ^ (first_bits & static_cast<uint32_t>(-kept));
  });
  double sum = 0, count = 0;
  uint32_t any_unlike = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += sums[lane], count += counts[lane], any_unlike |= unlike[lane];
  if (any_unlike == 0 && !std::isnan(sum)) return repeated(x[first], count);

  const double mean = sum / count;
  double squares[kLanes] = {};
  for_lanes(x, mask, n, [&](int64_t lane, float value, int32_t kept) {
    const double distance = value - mean * kept;
    squares[lane] += distance * distance;
  });
  return {count, mean, std::accumulate(squares, squares + kLanes, 0.0)};
}

// The variance of too few values for ddof is 0.
GRPO_FORMULA double variance(const Moments& moments, int64_t ddof) {
  const double degrees = moments.count - static_cast<double>(ddof);
  return degrees > 0 ? moments.m2 / degrees : 0;
}

// What a centred value is divided by. A spread of exactly 0 divides nothing.
GRPO_FORMULA double divisor_of(double variance, double eps, bool eps_under_root) {
  if (variance == 0) return 1;
  return eps_under_root ? sqrt(variance + eps) : sqrt(variance) + eps;
}

}  // namespace grpo
