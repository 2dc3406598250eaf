// The discounted sum of the values from each token to the end of its sequence.
//
// One warp per sequence, from its end to its beginning, kOwn tokens per lane at a time. A lane sums its tokens as if
// nothing followed and forms the factor that what does follow comes with; a scan over the lanes joins those. Tokens
// are counted from the end of the sequence, so that the bits depend on nothing but its own values. 8 bytes per token,
// 9 with a mask; sums are float64. A launch before looks at the offsets: where one of them is bad, which sequences meet
// is not known, and all tokens are NaN.
#include "blocks/offsets.cuh"
#include "launch/operation.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int kOwn = 4;

// What comes after a run of tokens goes through it: y = own + factor * after.
struct Step {
  double own, factor;
};

// The lanes from this one on, joined.
__device__ __forceinline__ Step scan_lanes(Step run, double smallest) {
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const double own = __shfl_down_sync(kAllLanes, run.own, distance);
    const double factor = __shfl_down_sync(kAllLanes, run.factor, distance);
    if (lane_index() + distance < kWarp) {
      run.own += run.factor * own;
      run.factor = fmax(run.factor * factor, smallest);
    }
  }
  return run;
}

// Grid: ceil(S / 4). Block: 128. Shared: 0. Work: 8 bytes per token, 9 with a mask. Bound: latency.
__global__ void __launch_bounds__(kThreads)
    discounted_sum_kernel(const float* x,        // [T]
                          const int32_t* start,  // [S+1]
                          const uint8_t* mask,   // [T], may be null
                          const uint32_t* bad,   // [1], not 0: offsets are bad
                          float* y,              // [T]
                          int64_t S, int64_t T, double decay) {
  if (*bad != 0) {
    for (int64_t t = thread_index(); t < T; t += int64_t{gridDim.x} * kThreads) y[t] = NAN;
    return;
  }
  const int64_t s = int64_t{blockIdx.x} * kWarps + warp_index();
  if (s >= S) return;
  const int64_t begin = start[s], end = start[s + 1];
  // A factor that ran down to 0 would make NaN of an infinity that follows. No finite sum shows a factor of 2^-1000.
  const double smallest = decay > 0 ? 0x1p-1000 : 0;
  double after = 0;
  for (int64_t stop = end; stop > begin; stop -= kOwn * kWarp) {
    const int64_t first = stop - (kWarp - lane_index()) * kOwn;
    const auto live = [&](int64_t t) { return t >= begin && (mask == nullptr || mask[t] != 0); };
    Step run{0, 1}, from[kOwn];
    bool lives[kOwn];
#pragma unroll
    for (int i = kOwn - 1; i >= 0; --i) {
      lives[i] = live(first + i);
      if (lives[i]) run = {x[first + i] + decay * run.own, fmax(decay * run.factor, smallest)};
      from[i] = run;
    }
    const Step inclusive = scan_lanes(run, smallest);
    Step next{__shfl_down_sync(kAllLanes, inclusive.own, 1), __shfl_down_sync(kAllLanes, inclusive.factor, 1)};
    if (lane_index() == kWarp - 1) next = {0, 1};
    const double follows = next.own + next.factor * after;
#pragma unroll
    for (int i = 0; i < kOwn; ++i)
      if (first + i >= begin) y[first + i] = lives[i] ? static_cast<float>(from[i].own + from[i].factor * follows) : 0;
    after = __shfl_sync(kAllLanes, inclusive.own + inclusive.factor * after, 0);
  }
}

using Args = grpo_discounted_sum_args;

int run(const Args& args, const Axes& axes, Launch& on) {
  const int64_t S = axes['S'], T = axes['T'];
  if (args.out_x == nullptr || T == 0) return GRPO_OK;
  const int32_t* start = data<int32_t>(args.sequence_start);
  const uint32_t* bad = bad_offsets(start, S, T, on);
  on(discounted_sum_kernel, {S == 0 ? 1 : ceil_div(S, kWarps), kThreads}, data<float>(args.x), start,
     data<uint8_t>(args.mask), bad, data<float>(args.out_x), S, T, args.decay);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kDiscountedSum, discounted_sum);

}  // namespace grpo::cuda
