// Prefix sums and searches by a block, and the ascending list of the places where a flag is set. Everything is integer,
// so that no order of work shows in a result.
#pragma once

#include "launch/operation.cuh"

namespace grpo::cuda {

// The last i of [low, high] with sorted[i] <= value, or low. Ends whatever the array holds.
template <class T>
__device__ __forceinline__ int64_t last_at_most(const T* sorted,  // [high+1]
                                                int64_t low, int64_t high, int64_t value) {
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (static_cast<int64_t>(sorted[middle]) <= value) low = middle;
    else high = middle - 1;
  }
  return low;
}

// The sum over the lower lanes and this one.
template <class T>
__device__ __forceinline__ T warp_scan(T value) {
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const T lower = __shfl_up_sync(kAllLanes, value, distance);
    if (lane_index() >= distance) value += lower;
  }
  return value;
}

template <class T>
struct Scanned {
  T before, total;  // the sums over the lower threads, and over all
};

// `partial`: shared memory, one per warp. All threads call it; blockDim.x is a multiple of 32.
template <class T>
__device__ __forceinline__ Scanned<T> block_scan(T value, T* partial) {
  const T inclusive = warp_scan(value);
  __syncthreads();  // partial may still be read from the call before
  if (lane_index() == kWarp - 1) partial[warp_index()] = inclusive;
  __syncthreads();
  Scanned<T> result{inclusive - value, 0};
  for (int warp = 0; warp < static_cast<int>(blockDim.x) / kWarp; ++warp) {
    if (warp < warp_index()) result.before += partial[warp];
    result.total += partial[warp];
  }
  return result;
}

// The n-th i (n >= 1) of [begin, end) with flag(i), in every thread; `end` where there are fewer. `partial`: shared
// memory, one per warp. Each warp has a piece: it counts, and the one whose piece has the n-th looks again.
template <class F>
__device__ __forceinline__ int64_t block_find(int64_t begin, int64_t end, int64_t n, int64_t* partial, F flag) {
  const int64_t warps = blockDim.x / kWarp, piece = ceil_div(ceil_div(end - begin, warps), kWarp) * kWarp;
  const int64_t first = begin + warp_index() * piece, stop = first + piece < end ? first + piece : end;
  int64_t own = 0;
#pragma unroll 4
  for (int64_t i = first + lane_index(); i < stop; i += kWarp) own += flag(i);
  own = warp_reduce(own, Add{});
  __syncthreads();  // partial may still be read from the call before
  if (lane_index() == 0) partial[warp_index()] = own;
  __syncthreads();
  int64_t before = 0;
  int owner = 0;
  for (; owner < warps && before + partial[owner] < n; ++owner) before += partial[owner];
  __syncthreads();
  if (warp_index() == owner) {
    for (int64_t base = first; base < stop; base += kWarp) {
      const int64_t i = base + lane_index();
      const uint32_t found = __ballot_sync(kAllLanes, i < stop && flag(i));
      const int64_t here = before + __popc(found);
      if (here >= n) {
        const uint32_t lower = found & ((1u << lane_index()) - 1);
        if ((found >> lane_index() & 1) != 0 && before + __popc(lower) == n - 1) partial[0] = i;
        break;
      }
      before = here;
    }
  } else if (owner == warps && threadIdx.x == 0) {
    partial[0] = end;
  }
  __syncthreads();
  return partial[0];
}

// Thread 0 of each block arrives once; true in every thread of the block that comes last, which may read what the
// others wrote. `arrived`: 0 before. `last`: shared memory.
__device__ __forceinline__ bool last_block(uint32_t* arrived, uint32_t* last) {
  __syncthreads();
  if (threadIdx.x == 0) *last = acquire_release_add(arrived, 1) == gridDim.x - 1;
  __syncthreads();
  return *last != 0;
}

// ---- the places of flags: counts per block, one block that scans them, then the places ------------------------------
//
// Flags: a struct with `int32_t skip` and `uint32_t bits(int64_t first, int64_t N)`: the flags of places first to
// first + 15, which may lie outside [0, N). Thread i of all has places 16 i - skip onward.

constexpr int kFlags = 16, kFlagThreads = 256, kFlagWarps = kFlagThreads / kWarp;
constexpr int kScanThreads = 1024, kScanWarps = kScanThreads / kWarp, kScanOwn = 8;  // counts of a thread at a time

struct FlagsShared {
  uint32_t partial[kFlagWarps];
};
struct ScanShared {
  uint32_t partial[kScanWarps];
};

template <class Flags>
__global__ void __launch_bounds__(kFlagThreads)
    count_flags_kernel(Flags flags,
                       uint32_t* counts,  // [blocks]
                       int64_t N) {
  DYN_SMEM(FlagsShared, shared);
  const uint32_t bits = flags.bits(thread_index() * kFlags - flags.skip, N);
  const uint32_t count = block_sum(static_cast<uint32_t>(__popc(bits)), shared.partial);
  if (threadIdx.x == 0) counts[blockIdx.x] = count;
}

// One block: counts become the sums of those before them, and counts[n] the sum of all.
static __global__ void __launch_bounds__(kScanThreads)
    scan_counts_kernel(uint32_t* counts,  // [n+1]
                       double* total,     // [1], may be null
                       int64_t n) {
  DYN_SMEM(ScanShared, shared);
  uint32_t sum = 0;
  for (int64_t begin = 0; begin < n; begin += kScanThreads * kScanOwn) {
    const int64_t first = begin + threadIdx.x * kScanOwn;
    uint32_t own[kScanOwn], whole = 0;
#pragma unroll
    for (int i = 0; i < kScanOwn; ++i) {
      own[i] = first + i < n ? counts[first + i] : 0;
      whole += own[i];
    }
    const Scanned<uint32_t> scanned = block_scan(whole, shared.partial);
    uint32_t before = sum + scanned.before;
#pragma unroll
    for (int i = 0; i < kScanOwn; ++i) {
      if (first + i < n) counts[first + i] = before;
      before += own[i];
    }
    sum += scanned.total;
  }
  if (threadIdx.x != 0) return;
  counts[n] = sum;
  if (total != nullptr) *total = sum;
}

template <class Flags>
__global__ void __launch_bounds__(kFlagThreads)
    write_flags_kernel(Flags flags,
                       const uint32_t* before,  // [gridDim.x+1]
                       int32_t* places,         // [M]
                       int32_t rest,            // what places beyond the last one are
                       int64_t N, int64_t M) {
  DYN_SMEM(FlagsShared, shared);
  const int64_t first = thread_index() * kFlags - flags.skip;
  uint32_t bits = flags.bits(first, N);
  int64_t at = before[blockIdx.x] + block_scan(static_cast<uint32_t>(__popc(bits)), shared.partial).before;
  for (; bits != 0 && at < M; bits &= bits - 1)
    places[at++] = static_cast<int32_t>(first + __ffs(static_cast<int>(bits)) - 1);
  const int64_t threads = int64_t{gridDim.x} * kFlagThreads;
  for (int64_t m = before[gridDim.x] + thread_index(); m < M; m += threads) places[m] = rest;
}

// places null: counts only. Returns how many flags there are, in device memory.
template <class Flags>
const uint32_t* list_flags(const Flags& flags,
                           double* count,    // [1], may be null
                           int32_t* places,  // [M], may be null
                           int32_t rest, int64_t N, int64_t M, Launch& on) {
  const int64_t blocks = ceil_div(N + flags.skip + 1, int64_t{kFlagThreads} * kFlags);
  uint32_t* counts = on.scratch<uint32_t>(blocks + 1);
  on(count_flags_kernel<Flags>, {blocks, kFlagThreads, sizeof(FlagsShared)}, flags, counts, N);
  on(scan_counts_kernel, {1, kScanThreads, sizeof(ScanShared)}, counts, count, blocks);
  if (places != nullptr)
    on(write_flags_kernel<Flags>, {blocks, kFlagThreads, sizeof(FlagsShared)}, flags, counts, places, rest, N, M);
  return counts + blocks;
}

}  // namespace grpo::cuda
