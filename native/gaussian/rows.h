// The rows of Gaussian policies, cut into blocks of fixed size, so that a few long rows still use all threads and the bits
// of a row depend on nothing but its own values.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "parallel/parallel.h"

namespace grpo {

constexpr int64_t kGaussianBlock = 1 << 14;

inline int64_t gaussian_blocks(int64_t D) { return (D + kGaussianBlock - 1) / kGaussianBlock; }

// Calls visit(t, block, begin, end) for every block of every row, on all threads.
template <class Visit>
void for_gaussian_blocks(int64_t T, int64_t D, Visit&& visit) {
  const int64_t count = gaussian_blocks(D);
  const int64_t piece = std::max<int64_t>(1, kGaussianBlock / std::max<int64_t>(D, 1));
  parallel_for(T * count, piece, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = i / count, block = i % count;
      visit(t, block, block * kGaussianBlock, std::min(block * kGaussianBlock + kGaussianBlock, D));
    }
  });
}

// What a density is not defined for becomes NaN, so that it shows in every result of its row.
inline double positive(float std) { return std > 0 ? std : NAN; }

}  // namespace grpo
