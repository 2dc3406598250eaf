#include "selection/token_cuts.cuh"

#include "blocks/last_block.cuh"
#include "blocks/reduce.cuh"
#include "blocks/scan.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kLevels = 3, kBins = 2048;
__host__ __device__ constexpr int shift_of(int level) { return level == 0 ? 21 : level == 1 ? 10 : 0; }

// ---- one block per set ----------------------------------------------------------------------------------------------

struct SetShared {
  int64_t partial[kWarps];
  uint32_t counts[kWarps];
  uint32_t bins[256];
  uint32_t digit, rank;
};

// The digit at which the rank-th largest lies, when thread i holds the count of the i-th largest digit; `rank` becomes
// its rank among those of that digit.
__device__ __forceinline__ uint32_t find_digit(uint32_t own, uint32_t rank, uint32_t digits, SetShared& shared) {
  const Scanned<uint32_t> scanned = block_scan(own, shared.counts);
  if (scanned.before < rank && rank <= scanned.before + own) {
    shared.digit = digits - 1 - threadIdx.x;
    shared.rank = rank - scanned.before;
  }
  __syncthreads();
  return shared.digit;
}

// Grid: 1 per set. Block: 256. Shared: 1,128. Work: 4 bytes per token, five or six times. Bound: latency.
__global__ void __launch_bounds__(kThreads)
    sets_kernel(const uint32_t* keys,          // [T]
                const int32_t* sequence_start,  // [S+1], null: one set of all tokens
                Cut* cuts,                      // [sets]
                int64_t T, int64_t count, double fraction) {
  DYN_SMEM(SetShared, shared);
  const Range set = sequence_start == nullptr ? Range{0, T, true} : range_of(sequence_start, blockIdx.x, T);
  uint32_t unmasked = 0, candidates = 0;
  bool any = false;
  for (int64_t t = set.begin + threadIdx.x; t < set.end; t += kThreads) {
    const uint32_t key = keys[t];
    unmasked += key != kMaskedKey;
    candidates += key >= kLowestKey;
    any |= key >= kLowestKey && key != kZeroKey;
  }
  const int64_t n = block_sum(unmasked, shared.counts), most = block_sum(candidates, shared.counts);
  const int64_t wanted = selected_count(n, count, fraction), k = wanted < most ? wanted : most;
  const bool keeps = __syncthreads_or(any) != 0 && k > 0;
  Cut cut = nothing();
  if (keeps) {
    uint32_t prefix = 0, rank = static_cast<uint32_t>(k), ties = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
      shared.bins[threadIdx.x] = 0;
      __syncthreads();
      for (int64_t t = set.begin + threadIdx.x; t < set.end; t += kThreads) {
        const uint32_t key = keys[t];
        const bool shares = shift == 24 || key >> (shift + 8) == prefix;
        if (key >= kLowestKey && shares) atomicAdd(&shared.bins[key >> shift & 255u], 1u);
      }
      __syncthreads();
      const uint32_t own = shared.bins[255 - threadIdx.x];
      const uint32_t digit = find_digit(own, rank, 256, shared);
      prefix = prefix << 8 | digit;
      rank = shared.rank;
      ties = shared.bins[digit];
      __syncthreads();
    }
    cut = {prefix, kAllPlaces};
    if (rank < ties)
      cut.last = static_cast<int32_t>(
          block_find(set.begin, set.end, rank, shared.partial, [&](int64_t t) { return keys[t] == prefix; }));
  }
  if (threadIdx.x == 0) cuts[blockIdx.x] = cut;
}

// ---- a batch, by all blocks -----------------------------------------------------------------------------------------

// 0 before.
struct State {
  uint32_t bins[kLevels][kBins];
  uint32_t unmasked, candidates, any;
  uint32_t arrived[kLevels + 1];
  // Of the last key that is kept: its upper bits, its rank among those that share them, and how many they are.
  uint32_t prefix, rank, ties;
};

struct BatchShared {
  SetShared set;
  uint32_t bins[kBins];
  uint32_t last;
};

// Grid: ceil(T / 4,096), at most 8 per multiprocessor. Block: 256. Shared: 9,328. Work: 4 bytes per token. Bound:
// issue.
__global__ void __launch_bounds__(kThreads)
    digits_kernel(const uint32_t* keys,  // [T]
                  State* state,
                  Cut* cut,  // [1]
                  int64_t T, int64_t count, double fraction, int32_t level) {
  DYN_SMEM(BatchShared, shared);
  const int shift = shift_of(level);
  const uint32_t prefix = level == 0 ? 0 : state->prefix, digits = level == 2 ? 1024 : kBins;
  const bool needed = level == 0 || state->rank > 0;
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) shared.bins[bin] = 0;
  __syncthreads();
  uint32_t unmasked = 0, candidates = 0;
  bool any = false;
  // All lanes of a warp stay together: they vote.
  for (int64_t base = int64_t{blockIdx.x} * kThreads; needed && base < T; base += int64_t{gridDim.x} * kThreads) {
    const int64_t t = base + threadIdx.x;
    const uint32_t key = t < T ? keys[t] : kMaskedKey;
    unmasked += key != kMaskedKey;
    candidates += key >= kLowestKey;
    any |= key >= kLowestKey && key != kZeroKey;
    const bool counts = key >= kLowestKey && (level == 0 || key >> shift_of(level - 1) == prefix);
    const uint32_t lanes = __ballot_sync(kAllLanes, counts);
    if (lanes == 0) continue;
    // Equal scores would stand in line for one bin: where a warp has but one digit, one lane adds for all.
    const uint32_t digit = key >> shift & (digits - 1);
    const uint32_t first = __shfl_sync(kAllLanes, digit, __ffs(static_cast<int>(lanes)) - 1);
    if (__all_sync(kAllLanes, !counts || digit == first)) {
      if (lane_index() == 0) atomicAdd(&shared.bins[first], static_cast<uint32_t>(__popc(lanes)));
    } else if (counts) {
      atomicAdd(&shared.bins[digit], 1u);
    }
  }
  __syncthreads();
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads)
    if (shared.bins[bin] != 0) atomicAdd(&state->bins[level][bin], shared.bins[bin]);
  if (level == 0) {
    unmasked = block_sum(unmasked, shared.set.counts);
    candidates = block_sum(candidates, shared.set.counts);
    any = __syncthreads_or(any) != 0;
    if (threadIdx.x == 0) {
      atomicAdd(&state->unmasked, unmasked);
      atomicAdd(&state->candidates, candidates);
      if (any) atomicOr(&state->any, 1u);
    }
  }
  if (!last_block(&state->arrived[level], &shared.last)) return;

  uint32_t rank = level == 0 ? 0 : state->rank;
  if (level == 0 && state->any != 0) {
    const int64_t most = state->candidates, wanted = selected_count(state->unmasked, count, fraction);
    rank = static_cast<uint32_t>(wanted < most ? wanted : most);
  }
  if (rank == 0) {  // nothing is kept: state->rank stays 0
    if (threadIdx.x == 0) *cut = nothing();
    return;
  }
  // The threads' counts of 8 neighbouring digits, then of each of the 8.
  constexpr uint32_t kOwn = kBins / kThreads;
  const uint32_t* bins = state->bins[level];
  uint32_t own = 0;
  for (uint32_t i = 0; i < kOwn; ++i) own += bins[kBins - 1 - threadIdx.x * kOwn - i];
  const uint32_t eight = find_digit(own, rank, kThreads, shared.set);
  if (threadIdx.x != 0) return;
  rank = shared.set.rank;
  uint32_t digit = eight * kOwn + kOwn - 1;
  for (; bins[digit] < rank; --digit) rank -= bins[digit];
  const uint32_t found = prefix << (level == 2 ? 10 : 11) | digit;
  state->prefix = found;
  state->rank = rank;
  state->ties = bins[digit];
  if (level == kLevels - 1) *cut = {found, kAllPlaces};
}

// Where the last of the tied tokens that are kept lies.
// Grid: ceil(T / 4,096), at most 8 per multiprocessor. Block: 256. Shared: 9,328. Work: 4 bytes per token. Bound:
// memory.
__global__ void __launch_bounds__(kThreads)
    ties_kernel(const uint32_t* keys,  // [T]
                State* state,
                uint32_t* counts,  // [gridDim.x]
                Cut* cut,          // [1]
                int64_t T) {
  DYN_SMEM(BatchShared, shared);
  const uint32_t rank = state->rank, key = state->prefix;
  if (rank == 0 || rank >= state->ties) return;
  const int64_t piece = ceil_div(T, gridDim.x);
  const int64_t begin = int64_t{blockIdx.x} * piece, end = begin + piece < T ? begin + piece : T;
  uint32_t own = 0;
#pragma unroll 4
  for (int64_t t = begin + threadIdx.x; t < end; t += kThreads) own += keys[t] == key;
  own = block_sum(own, shared.set.counts);
  if (threadIdx.x == 0) counts[blockIdx.x] = own;
  if (!last_block(&state->arrived[kLevels], &shared.last)) return;
  uint32_t before = 0;
  for (uint32_t first = 0; first < gridDim.x; first += kThreads) {
    const uint32_t block = first + threadIdx.x, ties = block < gridDim.x ? counts[block] : 0;
    const Scanned<uint32_t> scanned = block_scan(ties, shared.set.counts);
    if (before + scanned.before < rank && rank <= before + scanned.before + ties) {
      shared.set.digit = block;
      shared.set.rank = rank - before - scanned.before;
    }
    before += scanned.total;
  }
  __syncthreads();
  const int64_t from = shared.set.digit * piece, to = from + piece < T ? from + piece : T;
  const int64_t last =
      block_find(from, to, shared.set.rank, shared.set.partial, [&](int64_t t) { return keys[t] == key; });
  if (threadIdx.x == 0) cut->last = static_cast<int32_t>(last);
}

}  // namespace

void cut_sets(const uint32_t* keys, const int32_t* sequence_start, Cut* cuts, int64_t sets, int64_t T, int64_t count,
              double fraction, Launch& on) {
  on(sets_kernel, {sets, kThreads, sizeof(SetShared)}, keys, sequence_start, cuts, T, count, fraction);
}

void cut_batch(const uint32_t* keys, Cut* cut, int64_t T, int64_t count, double fraction, Launch& on) {
  State* state = on.scratch<State>(1);
  on.zero(state, sizeof(State));
  const int64_t most = int64_t{on.device.multiprocessors} * 8, many = ceil_div(T, kThreads * 16);
  const Shape all{most < many ? most : many, kThreads, sizeof(BatchShared)};
  uint32_t* counts = on.scratch<uint32_t>(all.blocks);
  for (int32_t level = 0; level < kLevels; ++level) on(digits_kernel, all, keys, state, cut, T, count, fraction, level);
  on(ties_kernel, all, keys, state, counts, cut, T);
}

}  // namespace grpo::cuda
