// The value of each sequence at its unmasked tokens, 0 at the others: the transpose of sequence_sum.
//
// One block per kBlockTokens tokens. Two threads look up the sequences of its first and last token; each token then
// finds its own between those. 4 bytes per token, 5 with a mask. A mean under a mask takes two launches more, which
// count the unmasked tokens (piece_sums.cuh) and divide. A token that lies in no sequence, since offsets are bad, is
// NaN.
#include "blocks/piece_sums.cuh"
#include "launch/operation.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp, kBlockTokens = 4 * kThreads;

struct Shared {
  int64_t bound[2];  // sequences of the first and last token of the block
};

// Grid: ceil(S / 8). Block: 256. Shared: 0. Work: 16 bytes per piece, 8 per sequence. Bound: latency.
__global__ void __launch_bounds__(kThreads)
    share_kernel(const float* x,        // [S]
                 const int32_t* start,  // [S+1]
                 const Sum* sums,       // [slots(S, T)], the counts
                 float* share,          // [S]
                 int64_t S, int64_t T) {
  const int64_t s = int64_t{blockIdx.x} * kWarps + warp_index();
  if (s >= S) return;
  const Sum whole = sum_of_pieces(start, sums, s, T);
  if (lane_index() == 0)
    share[s] = static_cast<float>(whole.count == 0 ? whole.total : x[s] / static_cast<double>(whole.count));
}

// Grid: ceil(T / 1,024). Block: 256. Shared: 16. Work: 4 bytes per token, 5 with a mask. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    sequence_expand_kernel(const float* x,        // [S]
                           const int32_t* start,  // [S+1]
                           const uint8_t* mask,   // [T], may be null
                           float* y,              // [T]
                           int64_t S, int64_t T, bool divide) {
  DYN_SMEM(Shared, shared);
  const int64_t begin = int64_t{blockIdx.x} * kBlockTokens, end = begin + kBlockTokens < T ? begin + kBlockTokens : T;
  if (threadIdx.x < 2) shared.bound[threadIdx.x] = last_at_most(start, 0, S - 1, threadIdx.x == 0 ? begin : end - 1);
  __syncthreads();
  for (int64_t t = begin + threadIdx.x; t < end; t += kThreads) {
    if (mask != nullptr && mask[t] == 0) {
      y[t] = 0;
      continue;
    }
    float value = NAN;
    if (S > 0) {
      const int64_t s = last_at_most(start, shared.bound[0], shared.bound[1], t);
      const Range range = range_of(start, s, T);
      if (range.begin <= t && t < range.end) {
        const double length = static_cast<double>(range.end - range.begin);
        value = divide ? static_cast<float>(x[s] / length) : x[s];
      }
    }
    y[t] = value;
  }
}

using Args = grpo_sequence_expand_args;

int run(const Args& args, const Axes& axes, Launch& on) {
  if (args.out_x == nullptr) return GRPO_OK;
  const int64_t S = axes['S'], T = axes['T'];
  const float* x = data<float>(args.x);
  const int32_t* start = data<int32_t>(args.sequence_start);
  const uint8_t* mask = data<uint8_t>(args.mask);
  if (args.mean != 0 && mask != nullptr) {
    const Sum* counts = piece_sums(nullptr, start, mask, S, T, on);
    float* share = on.scratch<float>(S);
    on(share_kernel, {ceil_div(S, kWarps), kThreads}, x, start, counts, share, S, T);
    x = share;
  }
  on(sequence_expand_kernel, {ceil_div(T, kBlockTokens), kThreads, sizeof(Shared)}, x, start, mask,
     data<float>(args.out_x), S, T, args.mean != 0 && mask == nullptr);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kSequenceExpand, sequence_expand);

}  // namespace grpo::cuda
