// How much memory linear_policy_loss takes beyond its inputs and outputs, before it is called: the shapes go through
// the functions that lay out the memory of a call.
#include "linear/kept.h"
#include "linear/linear_policy_loss.h"

namespace grpo {
namespace {

using Args = grpo_linear_policy_loss_plan_args;

int run(const Args& args, const Axes&) {
  const LossShape loss{.T = args.tokens,
                       .R = args.rows,
                       .S = is_null(args.sequences) ? args.tokens : args.sequences,
                       .ratio = static_cast<Ratio>(args.ratio),
                       .gradient = true,
                       .own_logp = false,
                       .own_entropy = false};
  Linear linear{};
  linear.T = args.tokens, linear.R = args.rows, linear.D = args.hidden_size, linear.V = args.vocabulary;
  LinearGradients gradients{};
  gradients.hidden_type = gradients.head_type = gradients.bias_type = static_cast<Float>(args.dtype);
  const auto pass_over = [&](int64_t rows, const LinearGradients* of) {
    ChunkShape shape = chunk_shape(linear, of, rows, args.chunk_rows);
    shape.threads = args.threads;
    shape.bias = of != nullptr;  // the plan does not ask whether there is one
    return bytes_of<ChunkShape, ChunkMemory>(shape);
  };
  // Where rows are masked, the others may go through in one chunk, of at most D / 2 rows, though all would not.
  const auto pass = [&](const LinearGradients* of) {
    return std::max(pass_over(linear.R, of), pass_over(std::min(linear.R, linear.D / 2), of));
  };
  const bool sets = !is_null(args.kept), wide = gradients.head_type == Float::kF32;
  // A call may mix rows with sets and rows without.
  LinearGradients sums = gradients;
  if (sets) sums.head_type = sums.bias_type = Float::kF32;
  const double passes = in_one_pass(loss) ? pass(&sums) : std::max(pass(nullptr), pass(&sums));
  const KeptShape kept{.T = linear.T,
                       .D = linear.D,
                       .M = args.kept,
                       .gradient = true,
                       .head_sum = wide ? 0 : linear.V,
                       .bias_sum = wide ? 0 : linear.V,
                       .threads = args.threads};
  double offsets = sizeof(int32_t) * (static_cast<double>(loss.S) + 1);  // the call's copy of sequence_start
  if (sets)  // and of the sets
    offsets += bytes_of<KeptShape, KeptLinearMemory>(kept) +
               sizeof(int32_t) * (static_cast<double>(split_scratch(linear.T)) + linear.R + 1 + kept.M);
  if (args.peak_bytes != nullptr)
    *data<double>(args.peak_bytes) = bytes_of<LossShape, LossMemory>(loss) + passes + offsets;
  return GRPO_OK;
}

const grpo_field kFields[] = {
    GRPO_OUT(peak_bytes, "f64[1]"),
    GRPO_OPT(rows, "integer 0..2147483647"),
    GRPO_OPT(tokens, "integer 0..2147483647"),
    GRPO_OPT(hidden_size, "integer 0..2147483647"),
    GRPO_OPT(vocabulary, "integer 0..2147483647"),
    GRPO_OPT(dtype, "enum f32|bf16|f16"),
    GRPO_OPT(threads, "integer 1..1024"),
    GRPO_OPT(chunk_rows, "integer? = null >= 1"),
    GRPO_OPT(sequences, "integer? = null 0..2147483647"),
    GRPO_OPT(ratio, "enum token|sequence|sequence_token|sequence_product|geometric"),
    GRPO_OPT(kept, "integer? = null 0..2147483647"),
};

}  // namespace

GRPO_OPERATION(kLinearPolicyLossPlan, linear_policy_loss_plan, kFields);

}  // namespace grpo
