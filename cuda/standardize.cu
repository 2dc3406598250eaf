// Centres and scales a batch by statistics that were gathered before, perhaps on several ranks.
//
// kPer values per thread, which computes the divisor once. 8 bytes per value, 9 with a mask; float64, rounded once. A
// count that is negative or NaN and a negative m2, which the host cannot see, give NaN.
#include "launch/operation.cuh"
#include "native/formulas/moments.h"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256, kPer = 8;
constexpr int64_t kBlock = kPer * kThreads;

struct Parameters {
  int64_t ddof;
  double eps;
  bool eps_under_root, center;
};

// Grid: ceil(N / 2,048). Block: 256. Shared: 0. Work: 8 bytes per value, 9 with a mask. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    standardize_kernel(const float* x,         // [N]
                       const uint8_t* mask,    // [N], may be null
                       const double* moments,  // [3]
                       float* y,               // [N]
                       int64_t N, Parameters p) {
  const Moments given{moments[0], moments[1], moments[2]};
  const bool bad = !(given.count >= 0) || given.m2 < 0;
  const double divisor = bad ? NAN : divisor_of(variance(given, p.ddof), p.eps, p.eps_under_root);
  const double center = p.center ? given.mean : 0;
  const int64_t first = int64_t{blockIdx.x} * kBlock + threadIdx.x;
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const int64_t at = first + i * kThreads;
    if (at >= N) break;
    // A division and not a product with 1 / divisor: a value at exactly one standard deviation gives exactly 1.
    y[at] = mask == nullptr || mask[at] != 0 ? static_cast<float>((x[at] - center) / divisor) : 0;
  }
}

using Args = grpo_standardize_args;

int run(const Args& args, const Axes& axes, Launch& on) {
  if (args.out_x == nullptr) return GRPO_OK;
  const int64_t N = axes['N'];
  const Parameters p{args.ddof, args.eps, args.eps_under_root != 0, args.center != 0};
  on(standardize_kernel, {ceil_div(N, kBlock), kThreads}, data<float>(args.x), data<uint8_t>(args.mask),
     data<double>(args.moments), data<float>(args.out_x), N, p);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kStandardize, standardize);

}  // namespace grpo::cuda
