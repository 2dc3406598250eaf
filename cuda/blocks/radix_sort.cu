// A stable sort of 32-bit keys, each with a 32-bit value: 8 bits of the key at a time, from the lowest. Three launches
// per digit: each block of 4096 counts its digits, one block sums the counts, then each block moves what it has; one
// launch in all where one block is enough. A warp takes its 512 in order and counts equal digits among its lanes, so
// that nothing depends on who comes first. 24 bytes per key and digit.
#include "blocks/radix_sort.cuh"

#include "blocks/scan.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kPiece = 16 * kWarp;  // keys of a warp
constexpr int64_t kBlock = int64_t{kPiece} * kWarps;
constexpr int kDigits = 256;  // one per thread

struct Shared {
  uint32_t count[kWarps][kDigits];
  uint32_t partial[kWarps];
};

// Lanes whose key has the same digit as this one's, among those that have a key.
__device__ __forceinline__ uint32_t peers_of(uint32_t digit, bool valid) {
  return __match_any_sync(kAllLanes, valid ? digit : uint32_t{kDigits});
}

// By each warp, of its own keys; a barrier of the block has to follow.
__device__ __forceinline__ void count_digits(const uint32_t* keys,  // [N]
                                             int64_t begin, int64_t N, int32_t shift,
                                             uint32_t* count) {  // [kDigits], of the warp
  for (int digit = lane_index(); digit < kDigits; digit += kWarp) count[digit] = 0;
  __syncwarp();
  for (int64_t base = begin; base < begin + kPiece && base < N; base += kWarp) {
    const int64_t i = base + lane_index();
    const bool valid = i < N;
    const uint32_t digit = valid ? keys[i] >> shift & 255u : 0, peers = peers_of(digit, valid);
    if (valid && __ffs(static_cast<int>(peers)) - 1 == lane_index()) count[digit] += __popc(peers);
    __syncwarp();
  }
}

// Of the digit whose number the thread has.
__device__ __forceinline__ uint32_t count_of_block(const Shared& shared) {
  uint32_t sum = 0;
  for (int warp = 0; warp < kWarps; ++warp) sum += shared.count[warp][threadIdx.x];
  return sum;
}

// After count_digits. `next`: the place of the block's first key of the digit whose number the thread has.
__device__ __forceinline__ void move_keys(const uint32_t* keys,    // [N]
                                          const uint32_t* values,  // [N], null: 0, 1, ...
                                          uint32_t* moved_keys,    // [N]
                                          uint32_t* moved_values,  // [N], may be null
                                          int64_t begin, int64_t N, int32_t shift, uint32_t next, Shared& shared) {
  // Counts become the place of the first key of that digit in each warp.
  for (int warp = 0; warp < kWarps; ++warp) {
    const uint32_t count = shared.count[warp][threadIdx.x];
    shared.count[warp][threadIdx.x] = next;
    next += count;
  }
  __syncthreads();
  uint32_t* place = shared.count[warp_index()];
  for (int64_t base = begin; base < begin + kPiece && base < N; base += kWarp) {
    const int64_t i = base + lane_index();
    const bool valid = i < N;
    const uint32_t key = valid ? keys[i] : 0, digit = key >> shift & 255u, peers = peers_of(digit, valid);
    const uint32_t lower = peers & ((1u << lane_index()) - 1);
    if (valid) {
      const uint32_t to = place[digit] + __popc(lower);
      moved_keys[to] = key;
      if (moved_values != nullptr) moved_values[to] = values == nullptr ? static_cast<uint32_t>(i) : values[i];
    }
    __syncwarp();
    if (valid && lower == 0) place[digit] += __popc(peers);
    __syncwarp();
  }
}

__device__ __forceinline__ int64_t first_key() {
  return int64_t{blockIdx.x} * kBlock + warp_index() * kPiece;
}

// Grid: ceil(N / 4,096). Block: 256. Shared: 8,224. Work: 4 bytes per key and digit. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    sort_count_kernel(const uint32_t* keys,  // [N]
                      uint32_t* counts,      // [kDigits, gridDim.x]
                      int64_t N, int32_t shift) {
  DYN_SMEM(Shared, shared);
  count_digits(keys, first_key(), N, shift, shared.count[warp_index()]);
  __syncthreads();
  counts[int64_t{threadIdx.x} * gridDim.x + blockIdx.x] = count_of_block(shared);
}

// Grid: ceil(N / 4,096). Block: 256. Shared: 8,224. Work: 20 bytes per key and digit, 12 without places. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    sort_move_kernel(const uint32_t* keys,    // [N]
                     const uint32_t* values,  // [N], null: 0, 1, ...
                     const uint32_t* before,  // [kDigits, gridDim.x], scanned
                     uint32_t* moved_keys,    // [N]
                     uint32_t* moved_values,  // [N], may be null
                     int64_t N, int32_t shift) {
  DYN_SMEM(Shared, shared);
  count_digits(keys, first_key(), N, shift, shared.count[warp_index()]);
  __syncthreads();
  const uint32_t next = before[int64_t{threadIdx.x} * gridDim.x + blockIdx.x];
  move_keys(keys, values, moved_keys, moved_values, first_key(), N, shift, next, shared);
}

// At most kBlock keys: one block moves them there and back twice.
// Grid: 1. Block: 256. Shared: 8,224. Work: 24 bytes per key and digit, from cache. Bound: latency.
__global__ void __launch_bounds__(kThreads)
    sort_few_kernel(uint32_t* keys,          // [N]
                    uint32_t* values,        // [N], written; may be null
                    uint32_t* other_keys,    // [N], scratch
                    uint32_t* other_values,  // [N], scratch; may be null
                    int64_t N) {
  DYN_SMEM(Shared, shared);
  for (int32_t shift = 0; shift < 32; shift += 8) {
    const bool back = shift % 16 != 0;
    const uint32_t* from = back ? other_keys : keys;
    count_digits(from, first_key(), N, shift, shared.count[warp_index()]);
    __syncthreads();
    const uint32_t next = block_scan(count_of_block(shared), shared.partial).before;
    move_keys(from, shift == 0 ? nullptr : back ? other_values : values, back ? keys : other_keys,
              back ? values : other_values, first_key(), N, shift, next, shared);
    __syncthreads();
  }
}

}  // namespace

Sorted radix_sort(uint32_t* keys, int64_t N, bool places, Launch& on) {
  const int64_t blocks = ceil_div(N, kBlock);
  if (blocks <= 1) {
    const Sorted sorted{keys, places ? on.scratch<uint32_t>(N) : nullptr};
    on(sort_few_kernel, {blocks, kThreads, sizeof(Shared)}, keys, sorted.values, on.scratch<uint32_t>(N),
       places ? on.scratch<uint32_t>(N) : nullptr, N);
    return sorted;
  }
  uint32_t* counts = on.scratch<uint32_t>(kDigits * blocks + 1);
  Sorted from{keys, nullptr}, to{on.scratch<uint32_t>(N), places ? on.scratch<uint32_t>(N) : nullptr};
  uint32_t* other = places ? on.scratch<uint32_t>(N) : nullptr;
  for (int32_t shift = 0; shift < 32; shift += 8) {
    on(sort_count_kernel, {blocks, kThreads, sizeof(Shared)}, from.keys, counts, N, shift);
    scan_counts(counts, nullptr, kDigits * blocks, on);
    on(sort_move_kernel, {blocks, kThreads, sizeof(Shared)}, from.keys, from.values, counts, to.keys, to.values,
       N, shift);
    const Sorted done = to;
    to = {from.keys, shift == 0 ? other : from.values};
    from = done;
  }
  return from;
}

}  // namespace grpo::cuda
