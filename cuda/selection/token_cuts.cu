#include "selection/token_cuts.cuh"


namespace grpo::cuda {
namespace {

constexpr int kThreads = kDigitThreads, kWarps = kThreads / kWarp;

// ---- one block per set ----------------------------------------------------------------------------------------------

constexpr int64_t kHeld = 4096;  // keys of a set in shared memory: those of more are read from the L2 cache each time

struct SetShared {
  int64_t partial[kWarps];
  uint32_t counts[kWarps];
  uint32_t bins[256];
  FoundDigit found;
  uint32_t keys[kHeld];
};

// Grid: 1 per set. Block: 256. Shared: 17,512. Work: 4 bytes per token, of more than 4,096 tokens five or six times.
// Bound: latency.
__global__ void __launch_bounds__(kThreads)
    sets_kernel(const uint32_t* keys,          // [T]
                const int32_t* sequence_start,  // [S+1], null: one set of all tokens
                Cut* cuts,                      // [sets]
                int64_t T, int64_t count, double fraction) {
  DYN_SMEM(SetShared, shared);
  const Range set = sequence_start == nullptr ? Range{0, T, true} : range_of(sequence_start, blockIdx.x, T);
  uint32_t unmasked = 0, candidates = 0;
  bool any = false;
  const bool held = set.end - set.begin <= kHeld;
#pragma unroll 4
  for (int64_t t = set.begin + threadIdx.x; t < set.end; t += kThreads) {
    const uint32_t key = keys[t];
    if (held) shared.keys[t - set.begin] = key;
    unmasked += key != kMaskedKey;
    candidates += key >= kLowestKey;
    any |= key >= kLowestKey && key != kZeroKey;
  }
  const int64_t n = block_sum(unmasked, shared.counts), most = block_sum(candidates, shared.counts);
  const int64_t wanted = selected_count(n, count, fraction), k = wanted < most ? wanted : most;
  const uint32_t* own_keys = held ? shared.keys : keys + set.begin;
  const int64_t size = set.end - set.begin;
  const bool keeps = __syncthreads_or(any) != 0 && k > 0;
  Cut cut = nothing();
  if (keeps) {
    uint32_t prefix = 0, rank = static_cast<uint32_t>(k), ties = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
      shared.bins[threadIdx.x] = 0;
      __syncthreads();
#pragma unroll 4
      for (int64_t i = threadIdx.x; i < size; i += kThreads) {
        const uint32_t key = own_keys[i];
        const bool shares = shift == 24 || key >> (shift + 8) == prefix;
        if (key >= kLowestKey && shares) atomicAdd(&shared.bins[key >> shift & 255u], 1u);
      }
      __syncthreads();
      const uint32_t own = shared.bins[255 - threadIdx.x];
      const FoundDigit found = find_digit(own, rank, 256, shared.counts, shared.found);
      prefix = prefix << 8 | found.digit;
      rank = found.rank;
      ties = shared.bins[found.digit];
      __syncthreads();
    }
    cut = {prefix, kAllPlaces};
    if (rank < ties)
      cut.last = static_cast<int32_t>(
          set.begin + block_find(0, size, rank, shared.partial, [&](int64_t i) { return own_keys[i] == prefix; }));
  }
  if (threadIdx.x == 0) cuts[blockIdx.x] = cut;
}

// ---- a batch, by all blocks -----------------------------------------------------------------------------------------

struct ListShared {
  DigitsShared digits;
  uint32_t begin;
};

// Keys of a tile, and where those of its keys begin that share the first digits of the cut.
constexpr int kGroups = 4, kTile = kGroups * 4 * kThreads;
struct Tile {
  uint32_t begin, count;
};

// Grid: ceil(T / 4,096), at most 8 per multiprocessor. Block: 256. Shared: 8,312. Work: 4 bytes per key, and 4 for each
// that is listed. Bound: memory.
__global__ void __launch_bounds__(kThreads, 6)
    list_kernel(const uint32_t* keys,  // [T, and masked ones up to a multiple of 4]
                TokenDigits* state,
                uint32_t* listed,  // [T], the keys with the digits found so far, in any order of the tiles
                Tile* tiles,       // [ceil(T / kTile)]
                int64_t T) {
  DYN_SMEM(ListShared, shared);
  if (state->rank == 0) return;
  clear_bins(shared.digits);
  const uint32_t prefix = state->prefix;
  for (int64_t tile = blockIdx.x; tile * kTile < T; tile += gridDim.x) {
    Words4 words[kGroups];
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      const int64_t group = tile * (kTile / 4) + i * kThreads + threadIdx.x;
      words[i] = group * 4 < T ? reinterpret_cast<const Words4*>(keys)[group]
                               : Words4{kMaskedKey, kMaskedKey, kMaskedKey, kMaskedKey};
    }
    const auto for_keys = [&](auto visit) {
#pragma unroll
      for (int i = 0; i < kGroups; ++i) visit(words[i].x), visit(words[i].y), visit(words[i].z), visit(words[i].w);
    };
    const auto shares = [&](uint32_t key) { return key >> shift_of(0) == prefix; };
    uint32_t count = 0;
    for_keys([&](uint32_t key) { count += shares(key); });
    const Scanned<uint32_t> scanned = block_scan(count, shared.digits.counts);
    if (threadIdx.x == 0) {
      shared.begin = scanned.total == 0 ? 0 : atomicAdd(&state->listed, scanned.total);
      tiles[tile] = {shared.begin, scanned.total};
    }
    __syncthreads();
    uint32_t* to = listed + shared.begin + scanned.before;
    for_keys([&](uint32_t key) {
      if (!shares(key)) return;
      *to++ = key;
      count_key(key, 1, shared.digits);
    });
  }
  find_digit_of_all(state, 1, shared.digits, [&] { return state->rank; });
}

// Grid: 2 per multiprocessor. Block: 256. Shared: 8,304. Work: 4 bytes per listed key. Bound: latency.
__global__ void __launch_bounds__(kThreads)
    last_digit_kernel(const uint32_t* listed,  // [state->listed]
                      TokenDigits* state,
                      Cut* cut) {  // [1]
  DYN_SMEM(DigitsShared, shared);
  if (state->rank == 0) {
    if (thread_index() == 0) *cut = nothing();
    return;
  }
  clear_bins(shared);
  const uint32_t prefix = state->prefix;
  const int64_t count = state->listed, threads = int64_t{gridDim.x} * kThreads;
#pragma unroll 4
  for (int64_t i = thread_index(); i < count; i += threads)
    if (const uint32_t key = listed[i]; key >> shift_of(1) == prefix) count_key(key, 2, shared);
  if (find_digit_of_all(state, 2, shared, [&] { return state->rank; })) *cut = {state->prefix, kAllPlaces};
}

// Where the last of the tied tokens that are kept lies.
// Grid: 2 per multiprocessor. Block: 256. Shared: 8,304. Work: 4 bytes per listed key. Bound: latency.
__global__ void __launch_bounds__(kThreads)
    ties_kernel(const uint32_t* keys,    // [T]
                const uint32_t* listed,  // [state->listed]
                const Tile* tiles,       // [ceil(T / kTile)]
                TokenDigits* state,
                uint32_t* counts,  // [ceil(T / kTile)], of ties
                Cut* cut,          // [1]
                int64_t T) {
  DYN_SMEM(DigitsShared, shared);
  const uint32_t rank = state->rank, key = state->prefix;
  if (rank == 0 || rank >= state->ties) return;
  const int64_t all = ceil_div(T, kTile), warps = int64_t{gridDim.x} * kWarps;
  for (int64_t i = int64_t{blockIdx.x} * kWarps + warp_index(); i < all; i += warps) {
    const Tile tile = tiles[i];
    uint32_t own = 0;
#pragma unroll 4
    for (uint32_t j = lane_index(); j < tile.count; j += kWarp) own += listed[tile.begin + j] == key;
    own = warp_reduce(own, Add{});
    if (lane_index() == 0) counts[i] = own;
  }
  if (!last_block(&state->arrived[kLevels], &shared.last)) return;
  uint32_t before = 0;
  for (int64_t first = 0; first < all; first += kThreads) {
    const int64_t i = first + threadIdx.x;
    const uint32_t ties = i < all ? counts[i] : 0;
    const Scanned<uint32_t> scanned = block_scan(ties, shared.counts);
    if (before + scanned.before < rank && rank <= before + scanned.before + ties) {
      shared.found.digit = static_cast<uint32_t>(i);
      shared.found.rank = rank - before - scanned.before;
    }
    before += scanned.total;
  }
  __syncthreads();
  const int64_t from = shared.found.digit * int64_t{kTile}, to = from + kTile < T ? from + kTile : T;
  const int64_t last = block_find(from, to, shared.found.rank, shared.partial,
                                  [&](int64_t t) { return keys[t] == key; });
  if (threadIdx.x == 0) cut->last = static_cast<int32_t>(last);
}

}  // namespace

void cut_sets(const uint32_t* keys, const int32_t* sequence_start, Cut* cuts, int64_t sets, int64_t T, int64_t count,
              double fraction, Launch& on) {
  on(sets_kernel, {sets, kThreads, sizeof(SetShared)}, keys, sequence_start, cuts, T, count, fraction);
}

void cut_batch(const uint32_t* keys, TokenDigits* state, Cut* cut, int64_t T, Launch& on) {
  const int64_t all = ceil_div(T, kTile), most = int64_t{on.device.multiprocessors} * 8;
  const Shape few{int64_t{on.device.multiprocessors} * 2, kThreads, sizeof(DigitsShared)};
  uint32_t* listed = on.scratch<uint32_t>(T);
  uint32_t* counts = on.scratch<uint32_t>(all);
  Tile* tiles = on.scratch<Tile>(all);
  on(list_kernel, {all < most ? all : most, kThreads, sizeof(ListShared)}, keys, state, listed, tiles, T);
  on(last_digit_kernel, few, listed, state, cut);
  on(ties_kernel, few, keys, listed, tiles, state, counts, cut, T);
}

}  // namespace grpo::cuda
