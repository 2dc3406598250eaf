// The ascending list of the places where a flag is set: counts per block, their sums, then the places.
//
// Flags: a struct with `int32_t skip` and `uint32_t bits(int64_t first, int64_t N)`: the flags of places first to
// first + 15, which may lie outside [0, N). Thread i of all has places 16 i - skip onward.
#pragma once

#include "blocks/reduce.cuh"
#include "blocks/scan.cuh"

namespace grpo::cuda {

constexpr int kFlags = 16, kFlagThreads = 256, kFlagWarps = kFlagThreads / kWarp;

struct FlagsShared {
  uint32_t partial[kFlagWarps];
};

// Grid: ceil(N / 4,096). Block: 256. Shared: 32. Work: what the flags are read from, once. Bound: memory.
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

// Grid: ceil(N / 4,096). Block: 256. Shared: 32. Work: what the flags are read from, once; 4 bytes per place. Bound:
// memory.
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
  scan_counts(counts, count, blocks, on);
  if (places != nullptr)
    on(write_flags_kernel<Flags>, {blocks, kFlagThreads, sizeof(FlagsShared)}, flags, counts, places, rest, N, M);
  return counts + blocks;
}

// The same by one block, where there are few: write(n, i) for the n-th i of [0, N) with flag(i), n from 0. Returns how
// many there are. `partial`: shared memory, one per warp. All threads call it.
template <class T, class F, class W>
__device__ __forceinline__ T block_list(T N, T* partial, F flag, W write) {
  T count = 0;
  for (T base = 0; base < N; base += blockDim.x) {
    const T i = base + static_cast<T>(threadIdx.x);
    const bool listed = i < N && flag(i);
    const Scanned<T> scanned = block_scan(static_cast<T>(listed), partial);
    if (listed) write(count + scanned.before, i);
    count += scanned.total;
  }
  return count;
}

}  // namespace grpo::cuda
