#include "blocks/scan.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 1024, kWarps = kThreads / kWarp, kOwn = 8;  // counts of a thread at a time

struct Shared {
  uint32_t partial[kWarps];
};

// Grid: 1. Block: 1,024. Shared: 128. Work: 8 bytes per count. Bound: latency.
__global__ void __launch_bounds__(kThreads)
    scan_counts_kernel(uint32_t* counts,  // [n+1]
                       double* total,     // [1], may be null
                       int64_t n) {
  DYN_SMEM(Shared, shared);
  uint32_t sum = 0;
  for (int64_t begin = 0; begin < n; begin += kThreads * kOwn) {
    const int64_t first = begin + threadIdx.x * kOwn;
    uint32_t own[kOwn], whole = 0;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      own[i] = first + i < n ? counts[first + i] : 0;
      whole += own[i];
    }
    const Scanned<uint32_t> scanned = block_scan(whole, shared.partial);
    uint32_t before = sum + scanned.before;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      if (first + i < n) counts[first + i] = before;
      before += own[i];
    }
    sum += scanned.total;
  }
  if (threadIdx.x != 0) return;
  counts[n] = sum;
  if (total != nullptr) *total = sum;
}

}  // namespace

void scan_counts(uint32_t* counts, double* total, int64_t n, Launch& on) {
  on(scan_counts_kernel, {1, kThreads, sizeof(Shared)}, counts, total, n);
}

}  // namespace grpo::cuda
