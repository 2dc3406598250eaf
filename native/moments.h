// Count, mean and sum of squared distances from the mean of a set of numbers: the statistics of rewards, in float64.
#pragma once

#include <cmath>
#include <cstdint>

namespace grpo {

struct Moments {
  double count = 0, mean = 0, m2 = 0;
};

// Chan, Golub and LeVeque (1983): no term cancels, however large the offset that both sets share. Two sets that each
// hold one repeated value, the same in both, keep exactly that mean and m2 = 0.
inline Moments merge(const Moments& a, const Moments& b) {
  if (a.count == 0) return b;
  if (b.count == 0) return a;
  const double count = a.count + b.count, delta = b.mean - a.mean;
  return {count, a.mean + delta * (b.count / count), a.m2 + b.m2 + delta * delta * (a.count / count * b.count)};
}

// `copies` of one value.
inline Moments repeated(double value, double copies) { return {copies, copies > 0 ? value : 0, 0}; }

// Of the unmasked x[n] in two passes: E[x^2] - E[x]^2 would lose all digits when rewards share a large offset.
// Values that are all equal have exactly that mean: the sum of 8 x 0.1 divided by 8 is not 0.1.
inline Moments moments_of(const float* x,       // [n]
                          const uint8_t* mask,  // [n], may be null
                          int64_t n) {
  double sum = 0, first = 0;
  int64_t count = 0;
  bool equal = true;
  for (int64_t i = 0; i < n; ++i) {
    if (mask != nullptr && mask[i] == 0) continue;
    if (count++ == 0) first = x[i];
    equal = equal && x[i] == first;
    sum += x[i];
  }
  if (count == 0) return {};
  if (equal) return repeated(first, static_cast<double>(count));
  const double mean = sum / static_cast<double>(count);
  double m2 = 0;
  for (int64_t i = 0; i < n; ++i)
    if (mask == nullptr || mask[i] != 0) m2 += (x[i] - mean) * (x[i] - mean);
  return {static_cast<double>(count), mean, m2};
}

// The variance of too few values for ddof is 0.
inline double variance(const Moments& moments, int64_t ddof) {
  const double degrees = moments.count - static_cast<double>(ddof);
  return degrees > 0 ? moments.m2 / degrees : 0;
}

// What a centred value is divided by. A spread of exactly 0 divides nothing.
inline double divisor_of(double variance, double eps, bool eps_under_root) {
  if (variance == 0) return 1;
  return eps_under_root ? std::sqrt(variance + eps) : std::sqrt(variance) + eps;
}

}  // namespace grpo
