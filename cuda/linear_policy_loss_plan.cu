// How much device memory linear_policy_loss takes beyond its inputs and outputs at most: what its launcher asks for.
#include "../native/objective.h"
#include "linear.cuh"

namespace grpo::cuda {
namespace {

int run(const grpo_linear_policy_loss_plan_args& args, const Axes&, Launch&) {
  const int64_t R = args.rows, T = args.tokens, V = args.vocabulary, D = args.hidden_size;
  const int64_t S = is_null(args.sequences) ? T : args.sequences;
  const int64_t rows = linear_chunk_rows(R, V, args.chunk_rows), chunks = rows == 0 ? 0 : ceil_div(R, rows);
  const bool sequences = static_cast<Ratio>(args.ratio) != Ratio::kToken;
  double bytes = 0;
  const auto take = [&](double count, double size) { bytes += count * size; };
  take(4.0 * T, 4);                             // logp, entropy and their gradients
  take(3.0 * R + T + 2, 4);                     // the named rows
  take(static_cast<double>(rows) * V, 4);       // logits
  take(4.0 * rows, 4);                          // softmax, kept rows
  take(static_cast<double>(chunks) * rows, 4);  // has_gradient of each chunk
  if (args.dtype != static_cast<int32_t>(Float::kF32)) take(static_cast<double>(V) * (D + 1), 4);
  if (sequences) take(static_cast<double>(rows) * V + 3.0 * R + T, 4);  // the second pass
  take(8.0 * S + T / 1024.0 + 64, 8);           // counts, sums and statistics of the loss
  if (args.peak_bytes != nullptr) *data<double>(args.peak_bytes) = bytes + 256 * 32;  // each begins at a multiple of 256
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kLinearPolicyLossPlan, linear_policy_loss_plan);

}  // namespace grpo::cuda
