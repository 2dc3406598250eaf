// Sum or mean of the unmasked values of each sequence.
//
// Two launches: one warp per piece of a sequence (piece_sums.cuh), then one warp per sequence, which adds its
// pieces. 4 bytes per token, 5 with a mask. Sums are float64. A sequence with bad offsets is NaN.
#include "blocks/piece_sums.cuh"
#include "launch/operation.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;

// Grid: ceil(S / 4). Block: 128. Shared: 0. Work: 16 bytes per piece, 4 per sequence. Bound: latency.
__global__ void __launch_bounds__(kThreads)
    sequence_sum_kernel(const int32_t* start,  // [S+1]
                        const Sum* sums,       // [slots(S, T)]
                        float* y,              // [S]
                        int64_t S, int64_t T, bool mean) {
  const int64_t s = int64_t{blockIdx.x} * kWarps + warp_index();
  if (s >= S) return;
  const Sum whole = sum_of_pieces(start, sums, s, T);
  if (lane_index() == 0)
    y[s] = static_cast<float>(mean && whole.count > 0 ? whole.total / whole.count : whole.total);
}

using Args = grpo_sequence_sum_args;

int run(const Args& args, const Axes& axes, Launch& on) {
  if (args.out_x == nullptr) return GRPO_OK;
  const int64_t S = axes['S'], T = axes['T'];
  const int32_t* start = data<int32_t>(args.sequence_start);
  const Sum* sums = piece_sums(data<float>(args.x), start, data<uint8_t>(args.mask), S, T, on);
  on(sequence_sum_kernel, {ceil_div(S, kWarps), kThreads}, start, sums, data<float>(args.out_x), S, T,
     args.mean != 0);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kSequenceSum, sequence_sum);

}  // namespace grpo::cuda
