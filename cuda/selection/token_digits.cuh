// The key of a given rank among those of a batch, found by all blocks: how many keys have each digit is counted, and
// the block that comes last finds the digit in which the key lies. Digits have 11, 11 and 10 bits.
//
// A block counts in shared memory, where a warp's keys of one digit are one addition of the hardware, and adds what it
// has to the counts of all. Counts are integers: neither their order nor the number of blocks shows.
#pragma once

#include "blocks/last_block.cuh"
#include "blocks/reduce.cuh"
#include "blocks/scan.cuh"
#include "selection/selection.cuh"

namespace grpo::cuda {

constexpr int kDigitThreads = 256;
constexpr int kLevels = 3, kBins = 2048;
__host__ __device__ constexpr int shift_of(int level) { return level == 0 ? 21 : level == 1 ? 10 : 0; }
__host__ __device__ constexpr uint32_t digits_of(int level) { return level == 2 ? 1024 : kBins; }

// 0 before.
struct TokenDigits {
  uint32_t bins[kLevels][kBins];
  uint32_t unmasked, candidates, any;
  uint32_t arrived[kLevels + 1];
  uint32_t listed;  // keys that have the first digit
  // Of the last key that is kept: its upper bits, its rank among those that share them (0: nothing is kept), and how
  // many they are.
  uint32_t prefix, rank, ties;
};

struct FoundDigit {
  uint32_t digit, rank;
};

struct DigitsShared {
  int64_t partial[kDigitThreads / kWarp];
  uint32_t counts[kDigitThreads / kWarp];
  uint32_t bins[kBins];
  FoundDigit found;
  uint32_t last;
};

// The digit at which the rank-th largest lies, when thread i holds the count of the i-th largest digit, and its rank
// among those of that digit. `counts`, `found`: shared memory.
__device__ __forceinline__ FoundDigit find_digit(uint32_t own, uint32_t rank, uint32_t digits, uint32_t* counts,
                                                 FoundDigit& found) {
  const Scanned<uint32_t> scanned = block_scan(own, counts);
  if (scanned.before < rank && rank <= scanned.before + own)
    found = {digits - 1 - threadIdx.x, rank - scanned.before};
  __syncthreads();
  return found;
}

__device__ __forceinline__ void clear_bins(DigitsShared& shared) {
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kDigitThreads) shared.bins[bin] = 0;
  __syncthreads();
}

__device__ __forceinline__ void count_key(uint32_t key, int level, DigitsShared& shared) {
  atomicAdd(&shared.bins[key >> shift_of(level) & (digits_of(level) - 1)], 1u);
}

// Adds what the block has counted, and in the block that comes last finds the digit in which the rank()-th largest of
// the keys counted lies. Returns true in one thread, once it is written.
template <class F>
__device__ __forceinline__ bool find_digit_of_all(TokenDigits* state, int level, DigitsShared& shared, F rank_of) {
  __syncthreads();
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kDigitThreads)
    if (shared.bins[bin] != 0) atomicAdd(&state->bins[level][bin], shared.bins[bin]);
  if (!last_block(&state->arrived[level], &shared.last)) return false;
  const uint32_t rank = rank_of();
  if (rank == 0) return false;
  // The threads' counts of 8 neighbouring digits, then of each of the 8.
  constexpr uint32_t kOwn = kBins / kDigitThreads;
  const uint32_t* bins = state->bins[level];
  uint32_t own = 0;
  for (uint32_t i = 0; i < kOwn; ++i) own += bins[kBins - 1 - threadIdx.x * kOwn - i];
  const FoundDigit eight = find_digit(own, rank, kDigitThreads, shared.counts, shared.found);
  if (threadIdx.x != 0) return false;
  uint32_t left = eight.rank, digit = eight.digit * kOwn + kOwn - 1;
  for (; bins[digit] < left; --digit) left -= bins[digit];
  const uint32_t prefix = state->prefix << (level == 2 ? 10 : 11) | digit;
  state->prefix = prefix;
  state->rank = left;
  state->ties = bins[digit];
  return true;
}

}  // namespace grpo::cuda
