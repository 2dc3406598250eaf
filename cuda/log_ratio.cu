// The difference of log-probabilities, 0 where masked.
//
// kPer tokens per thread. 12 bytes per token, 13 with a mask; what is masked is not read.
#include "launch/operation.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256, kPer = 8;
constexpr int64_t kBlock = kPer * kThreads;

// Grid: ceil(T / 2,048). Block: 256. Shared: 0. Work: 12 bytes per token, 13 with a mask. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    log_ratio_kernel(const float* x,       // [T]
                     const float* y,       // [T]
                     const uint8_t* mask,  // [T], may be null
                     float* log_ratio,     // [T]
                     int64_t T) {
  const int64_t first = int64_t{blockIdx.x} * kBlock + threadIdx.x;
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const int64_t t = first + i * kThreads;
    if (t >= T) break;
    log_ratio[t] = mask == nullptr || mask[t] != 0 ? x[t] - y[t] : 0;
  }
}

using Args = grpo_log_ratio_args;

int run(const Args& args, const Axes& axes, Launch& on) {
  float* log_ratio = data<float>(args.log_ratio);
  if (log_ratio == nullptr) return GRPO_OK;
  const int64_t T = axes['T'];
  on(log_ratio_kernel, {ceil_div(T, kBlock), kThreads}, data<float>(args.x), data<float>(args.y),
     data<uint8_t>(args.mask), log_ratio, T);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kLogRatio, log_ratio);

}  // namespace grpo::cuda
