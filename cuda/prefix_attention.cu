// Attention over packed segments that share prefixes.
//
// A block owns a tile of queries and runs over the keys of their paths with a running softmax: nothing is shared between
// blocks, and no scores leave the chip. Queries and outputs move once, keys and values once per tile of queries, mostly
// from the L2 cache: the heads that share keys stand next to each other in the order of work. The work list is made on
// the device, see attention/schedule.cu.
//
// bf16 and f16 of head sizes from 8 to 256 go through matrix instructions, as copies in f16: attention/factors.cuh. There
// a hidden value has the weight 0, and 0 times infinity is NaN: a tile with a result that is not finite, or whose numbers
// f16 does not hold, is done again by the other kernel, which leaves hidden values out. That is the kernel of all other
// inputs: float32 sums by 256 threads, any head sizes. Both stand in attention/.
#include "attention/attention.cuh"
#include "attention/forward.cuh"
#include "blocks/offsets.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256;

// Without columns all scores are 0: the logarithm of how many tokens each one sees.
// Grid: ceil(P / 256). Block: 256. Shared: 0. Work: 4 bytes per query and head, 8 per ancestor. Bound: latency.
__global__ void __launch_bounds__(kThreads)
    count_seen_kernel(Forest forest, WorkList work,
                      float* logsumexp,   // [P,H]
                      const float* sink,  // [H], may be null
                      int64_t H) {
  const int64_t t = thread_index();
  if (t >= forest.P) return;
  int64_t seen = -1;
  if (*work.count >= 0) {
    const int64_t own = last_at_most(forest.start, 0, forest.B - 1, t);
    int64_t count = t - forest.start[own] + 1;
    for (int64_t b = forest.parent[own]; b >= 0; b = forest.parent[b]) count += forest.start[b + 1] - forest.start[b];
    seen = count < forest.window ? count : forest.window;
  }
  for (int64_t h = 0; h < H; ++h) {
    const float* own = sink == nullptr ? nullptr : sink + h;
    logsumexp[t * H + h] = seen < 0 ? NAN : softmax_of_row(0, static_cast<double>(seen), own).logsumexp;
  }
}

using Args = grpo_prefix_attention_args;

int run(const Args& args, const Axes& axes, Launch& on) {
  if (const int status = check_attention(args, axes)) return status;
  const AttentionShape shape = shape_of(args, axes);
  const Forward forward{heads_of(args.q), heads_of(args.k), heads_of(args.v), data<float>(args.sink),
                        data<void>(args.out), data<void>(args.out_low), data<float>(args.logsumexp),
                        float_type(args.q)};
  const bool values = forward.out != nullptr && shape.E > 0;
  if (shape.H == 0 || shape.P == 0 || (!values && forward.logsumexp == nullptr)) return GRPO_OK;
  const Forest forest = forest_of(args, axes, on);
  if (shape.D == 0 && !values) {
    on(count_seen_kernel, {ceil_div(shape.P, kThreads), kThreads}, forest, list_query_tiles(forest, kTileTokens, on),
       forward.logsumexp, forward.sink, shape.H);
    return GRPO_OK;
  }
  const int32_t tokens = query_tile_tokens(forward, shape, on);
  const WorkList work = list_query_tiles(forest, tokens > 0 ? tokens : kTileTokens, on);
  const Again again = tokens > 0 ? attend_by_matrices(forward, forest, shape, work, on) : Again{nullptr, 1};
  attend_plainly(forward, forest, shape, work, again, on);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kPrefixAttention, prefix_attention);

}  // namespace grpo::cuda
