// Sums of floats in float64, in an order that depends on the values alone: value i goes to lane i % 8, and the lanes are
// added in their order. The bits are the same on every instruction set.
#pragma once

#include <bit>
#include <cstdint>

namespace grpo {

struct LaneSums {
  static constexpr int64_t kLanes = 8;
  double part[kLanes] = {};
  int64_t count = 0;  // of unmasked values

  // More values; n is a multiple of 8 in all calls but the last.
  void add(const float* x,       // [n]
           const uint8_t* mask,  // [n], may be null
           int64_t n) {
    // Sums that do not wait for one another. A masked value is selected away bit by bit, since a branch would be guessed
    // wrong and 0 * NaN is NaN.
    double own[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) own[lane] = part[lane];
    int64_t counted = mask == nullptr ? n : 0;
    const auto one = [&](int64_t i, int64_t lane) {
      uint32_t bits = std::bit_cast<uint32_t>(x[i]);
      if (mask != nullptr) {
        const uint32_t live = mask[i] != 0;
        bits &= 0 - live;
        counted += live;
      }
      own[lane] += std::bit_cast<float>(bits);
    };
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      __builtin_prefetch(x + i + 256);
      for (int64_t lane = 0; lane < kLanes; ++lane) one(i + lane, lane);
    }
    for (; i < n; ++i) one(i, i % kLanes);
    for (int64_t lane = 0; lane < kLanes; ++lane) part[lane] = own[lane];
    count += counted;
  }

  double total() const {
    double sum = 0;
    for (const double lane : part) sum += lane;
    return sum;
  }
};

}  // namespace grpo
