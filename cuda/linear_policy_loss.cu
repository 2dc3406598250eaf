// The policy loss from hidden states, with its gradients, without the logits of all rows. With token-level ratios a chunk
// of rows goes through three products: its logits, then, these having become their own gradient in place, gradHidden and
// gradHead. The ratio of a sequence needs the log-probabilities of all its rows first: a pass of one product, the sums of
// policy_loss, and the three products for the rows that have a gradient.
#include "linear.cuh"
#include "policy_loss.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 128;

// The derivatives of the loss by the logp and the entropy of the chunk's tokens: one thread per row.
__global__ void __launch_bounds__(kThreads)
    coefficients_kernel(LossPass pass, LinearChunk chunk, const float* logp, const float* entropy, float* grad_logp,
                        float* grad_entropy) {
  const int64_t i = thread_index();
  if (i >= chunk.rows || i >= *chunk.live) return;
  const int32_t r = chunk.named.row[chunk.begin + i];
  for (int32_t j = chunk.named.start[r]; j < chunk.named.start[r + 1]; ++j) {
    const int32_t t = chunk.named.tokens[j];
    const TokenTerm term = token_term(pass, t, find_sequence(pass.in, t), logp[t], entropy[t]);
    grad_logp[t] = static_cast<float>(term.grad_logp);
    if (grad_entropy != nullptr) grad_entropy[t] = static_cast<float>(term.grad_entropy);
  }
}

int run(const grpo_linear_policy_loss_args& args, const Axes& axes, Launch& on) {
  if (const int status = check_rows(args.row, axes, "hidden")) return status;
  if (const int status = check_objective(args, true)) return status;
  const Objective objective = objective_of(*args.objective);
  const Linear linear = linear_of(args, axes);
  const LinearGradients gradients = linear_gradients_of(args);
  const int32_t* row = data<int32_t>(args.row);
  const uint8_t* mask = data<uint8_t>(args.mask);
  const bool gradient = gradients.hidden != nullptr || gradients.head != nullptr || gradients.bias != nullptr;
  const bool once = objective.ratio == Ratio::kToken && gradient;
  float* logp = args.logp != nullptr ? data<float>(args.logp) : on.scratch<float>(linear.T);
  float* entropy = args.entropy != nullptr ? data<float>(args.entropy) : on.scratch<float>(linear.T);
  float* grad_logp = gradient ? on.scratch<float>(linear.T) : nullptr;
  float* grad_entropy = gradient && objective.entropy_coef != 0 ? on.scratch<float>(linear.T) : nullptr;

  LossInputs in = loss_inputs(args, axes);
  in.logp = logp;
  in.entropy = entropy;
  LossPass pass = prepare_loss(in, {linear.token, row, linear.V, linear.R}, objective, on);
  prepare_outputs(linear, row, mask, {logp, entropy, nullptr}, on);
  const auto chunks = [&](const NamedRows& named, bool with_gradient) {
    LinearChunk chunk = linear_chunk(linear, named, with_gradient ? &gradients : nullptr, args.chunk_rows, on);
    if (with_gradient) begin_gradients(linear, chunk, gradients, on);
    for (int64_t begin = 0; begin < linear.R; begin += chunk.rows) {
      const bool forward = once || !with_gradient;
      chunk_softmax(linear, chunk, begin, forward ? logp : nullptr, forward ? entropy : nullptr, nullptr, on);
      if (!with_gradient) continue;
      if (once)
        on(coefficients_kernel, {ceil_div(chunk.rows, kThreads), kThreads}, pass, chunk, logp, entropy, grad_logp,
           grad_entropy);
      chunk_gradient(linear, chunk, nullptr, nullptr, grad_logp, grad_entropy, gradients, on);
    }
    if (with_gradient) end_gradients(linear, chunk, gradients, on);
  };
  chunks(named_rows(linear, row, mask, nullptr, nullptr, on), once);
  prepare_sequences(pass, gradient, on);
  policy_loss(pass, data<float>(args.loss), once ? nullptr : grad_logp, once ? nullptr : grad_entropy,
              data<double>(args.stats), on);
  if (gradient && !once) chunks(named_rows(linear, row, mask, grad_logp, grad_entropy, on), true);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kLinearPolicyLoss, linear_policy_loss);

}  // namespace grpo::cuda
