// Gradients of attention over packed segments that share prefixes.
//
//   p = exp(scale q.k - logsumexp)   gradV[j] = sum_q p gradOut[q]      delta[q] = gradOut[q] . out[q]
//   s = scale p (gradOut.v - delta)  gradK[j] = sum_q s q               gradQ[q] = sum_j s k[j]
//
// Three passes, none of which shares a sum between blocks: delta by a thread per query; gradK and gradV by the block
// that owns 64 keys of one key head, over the queries of its heads in order (those from the first key to the end of the
// segment's subtree: one range); gradQ by the block that owns 64 queries of a head, over the keys of their paths.
// Scores are formed twice, and nothing but delta (4 bytes per query and head) goes through memory. bf16 and f16 go
// through matrix instructions where they can, and what came out of these without being finite is done again without.
// The kernels stand in attention/, a file for each pass and each kind of arithmetic.
//
// Which kernel runs: the same as forward, and only if the GPU lets a block have the shared memory that a head size
// takes. Those of 99 KB (compute capability 8.6, 8.9, 12.x) have it up to 128, and for q of up to 192 with v of up to
// 128; all others up to 256. All other inputs take float32 sums without matrix instructions.
#include "attention/attention.cuh"
#include "attention/backward.cuh"

namespace grpo::cuda {
namespace {

using Args = grpo_prefix_attention_backward_args;

int run(const Args& args, const Axes& axes, Launch& on) {
  if (const int status = check_attention(args, axes)) return status;
  const AttentionShape shape = shape_of(args, axes);
  const auto gradient = [&](DLTensor* x) {
    const Float type = x == nullptr ? Float::kF32 : float_type(x);
    return Gradient{data<void>(x), heads_of(x).stride, type, static_cast<float>(args.grad_scale)};
  };
  const Backward backward{heads_of(args.q),
                          heads_of(args.k),
                          heads_of(args.v),
                          heads_of(args.grad_out),
                          heads_of(args.out),
                          data<void>(args.out_low),
                          data<float>(args.sink),
                          data<float>(args.logsumexp),
                          on.scratch<float>(shape.P * shape.H),
                          gradient(args.grad_q),
                          gradient(args.grad_k),
                          gradient(args.grad_v),
                          data<float>(args.grad_sink),
                          float_type(args.q)};
  if (shape.H == 0) return GRPO_OK;
  // Gradients without elements need no pass over the pairs of tokens.
  const bool columns = shape.D > 0 && (args.grad_q != nullptr || args.grad_k != nullptr);
  const bool pairs = shape.P > 0 && (columns || (shape.E > 0 && args.grad_v != nullptr));
  if (pairs || args.grad_sink != nullptr) form_delta(backward, shape, on);
  if (!pairs) return GRPO_OK;
  const Forest forest = forest_of(args, axes, on);
  const bool fast = fit_matrices(backward, shape, on);
  const WorkList keys = list_key_tiles(forest, on);
  const Matrices matrices = fast ? prepare_matrices(backward, shape, keys, on) : Matrices{};
  if (backward.grad_k.data != nullptr || backward.grad_v.data != nullptr) {
    const Again again = fast ? grad_keys_by_matrices(matrices, forest, shape, keys, on) : Again{nullptr, 1};
    grad_keys_plainly(backward, forest, shape, keys, again, on);
  }
  if (backward.grad_q.data != nullptr) {
    const WorkList queries = list_query_tiles(forest, fast ? query_tile_tokens(shape) : kTileTokens, on);
    const Again again = fast ? grad_queries_by_matrices(matrices, forest, shape, queries, on) : Again{nullptr, 1};
    grad_queries_plainly(backward, forest, shape, queries, again, on);
  }
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kPrefixAttentionBackward, prefix_attention_backward);

}  // namespace grpo::cuda
