// Count, mean and sum of squared distances of a whole batch.
//
// One block per kPer * kThreads values, which stay in registers between the two passes: each value is read once, 4
// bytes, 5 with a mask. One block then merges the moments of those blocks, always in the same order: the bits depend
// on nothing but the values. All in float64.
#include "blocks/reduce.cuh"
#include "launch/operation.cuh"
#include "native/formulas/moments.h"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp, kPer = 16;
constexpr int64_t kBlock = kPer * kThreads;

struct Shared {
  double sum[kWarps];
  int32_t count[kWarps];
  float low[kWarps], high[kWarps];
};

struct Lower {
  __device__ __forceinline__ float operator()(float x, float y) const { return fminf(x, y); }
};
struct Higher {
  __device__ __forceinline__ float operator()(float x, float y) const { return fmaxf(x, y); }
};

// Grid: ceil(N / 4,096). Block: 256. Shared: 160. Work: 4 bytes per value, 5 with a mask. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    moments_kernel(const float* x,       // [N]
                   const uint8_t* mask,  // [N], may be null
                   Moments* moments,     // [blocks]
                   int64_t N) {
  DYN_SMEM(Shared, shared);
  const int64_t first = int64_t{blockIdx.x} * kBlock + threadIdx.x;
  float value[kPer];
  uint32_t kept = 0;  // a bit for each of them
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const int64_t at = first + i * kThreads;
    const bool counts = at < N && (mask == nullptr || mask[at] != 0);
    value[i] = counts ? x[at] : 0;
    kept |= uint32_t{counts} << i;
  }
  double own = 0;
  float low = INFINITY, high = -INFINITY;
  bool nan = false;
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    if ((kept >> i & 1) == 0) continue;
    own += value[i];
    low = fminf(low, value[i]);
    high = fmaxf(high, value[i]);
    nan |= isnan(value[i]);
  }
  const double sum = block_sum(own, shared.sum);
  const int32_t count = block_sum(__popc(kept), shared.count);
  low = block_reduce(low, shared.low, Lower{});
  high = block_reduce(high, shared.high, Higher{});
  nan = __syncthreads_or(nan) != 0;
  Moments whole;
  // Values that are all equal have exactly that mean and m2 = 0, which a sum divided by a count does not.
  if (count > 0 && !nan && low == high) whole = repeated(low, count);
  else if (count > 0) {
    const double mean = sum / count;
    double squares = 0;
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      if ((kept >> i & 1) == 0) continue;
      const double distance = value[i] - mean;
      squares += distance * distance;
    }
    whole = {static_cast<double>(count), mean, block_sum(squares, shared.sum)};
  }
  if (threadIdx.x == 0) moments[blockIdx.x] = whole;
}

struct MergeShared {
  Moments of_thread[kThreads];
};

// One block: thread i merges moments i, i + kThreads, ..., then halves of the threads merge with each other.
// Grid: 1. Block: 256. Shared: 6,144. Work: 24 bytes per block of moments_kernel. Bound: latency.
__global__ void __launch_bounds__(kThreads)
    merge_kernel(const Moments* moments,  // [blocks]
                 double* out,             // [3]
                 int64_t blocks) {
  DYN_SMEM(MergeShared, shared);
  Moments own;
  for (int64_t block = threadIdx.x; block < blocks; block += kThreads) own = merge(own, moments[block]);
  const int thread = static_cast<int>(threadIdx.x);
  shared.of_thread[thread] = own;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) shared.of_thread[thread] = merge(shared.of_thread[thread], shared.of_thread[thread + half]);
  }
  if (thread == 0) {
    const Moments all = shared.of_thread[0];
    out[0] = all.count, out[1] = all.mean, out[2] = all.m2;
  }
}

using Args = grpo_moments_args;

int run(const Args& args, const Axes& axes, Launch& on) {
  if (args.moments == nullptr) return GRPO_OK;
  const int64_t N = axes['N'], blocks = ceil_div(N, kBlock);
  Moments* moments = on.scratch<Moments>(blocks);
  on(moments_kernel, {blocks, kThreads, sizeof(Shared)}, data<float>(args.x), data<uint8_t>(args.mask), moments, N);
  on(merge_kernel, {1, kThreads, sizeof(MergeShared)}, moments, data<double>(args.moments), blocks);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kMoments, moments);

}  // namespace grpo::cuda
