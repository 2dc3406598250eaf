// The policy loss from hidden states, with its gradients, without the logits of all rows. With token-level ratios a
// chunk of rows goes through three products: its logits, then, these having become their own gradient in place,
// gradHidden and gradHead. The ratio of a sequence needs the log-probabilities of all its rows first: a pass of one
// product, the sums of policy_loss, and the three products for the rows that have a gradient.
//
// Which kernel runs: the products as in linear_token_logprob.cu.
#include "launch/operation.cuh"
#include "linear/kept.cuh"
#include "linear/linear_policy_loss.cuh"
#include "native/logits/logits.h"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 128;

// The derivatives of the loss by the logp and the entropy of the chunk's tokens: one thread per row.
// Six blocks of a multiprocessor: without that number ptxas aims at eight, and spills.
// Grid: ceil(rows of the chunk / 128). Block: 128. Shared: 0. Work: about 40 bytes per token. Bound: float64
// arithmetic.
__global__ void __launch_bounds__(kThreads, 6)
    coefficients_kernel(LossPass pass, NamedRows named, int64_t begin, const int32_t* live, float* grad_logp,
                        float* grad_entropy) {
  const int64_t i = thread_index();
  if (i >= *live) return;
  const int32_t end = named.end(begin + i);
  for (int32_t j = named.begin(begin + i); j < end; ++j) {
    const int32_t t = named.tokens[j];
    const TokenTerm term = token_term(pass, t, find_sequence(pass.in, t), pass.in.logp[t], pass.in.entropy[t]);
    grad_logp[t] = static_cast<float>(term.grad_logp);
    if (grad_entropy != nullptr) grad_entropy[t] = static_cast<float>(term.grad_entropy);
  }
}

int run(const grpo_linear_policy_loss_args& args, const Axes& axes, Launch& on) {
  if (const int status = check_vocabulary(args, axes)) return status;
  if (const int status = check_objective(args, true)) return status;
  linear_policy_loss({linear_of(args, axes), linear_gradients_of(args), data<int32_t>(args.row),
                      loss_inputs(args, axes), objective_of(args), args.chunk_rows, data<float>(args.logp),
                      data<float>(args.entropy), data<float>(args.loss), data<double>(args.stats), axes['M']},
                     on);
  return GRPO_OK;
}

}  // namespace

void linear_policy_loss(const LinearLoss& call, Launch& on) {
  const Linear& linear = call.linear;
  const LinearGradients& gradients = call.gradients;
  const bool gradient = gradients.hidden != nullptr || gradients.head != nullptr || gradients.bias != nullptr;
  const bool once = call.objective.ratio == Ratio::kToken && gradient;
  if (call.objective.ratio != Ratio::kToken) on.because(kTwoPasses);
  float* logp = call.logp != nullptr ? call.logp : on.scratch<float>(linear.T);
  float* entropy = call.entropy != nullptr ? call.entropy : on.scratch<float>(linear.T);
  float* grad_logp = gradient ? on.scratch<float>(linear.T) : nullptr;
  float* grad_entropy = gradient && call.objective.entropy_coef != 0 ? on.scratch<float>(linear.T) : nullptr;

  LossInputs in = call.in;
  in.logp = logp;
  in.entropy = entropy;
  TokenRows tokens = token_rows(linear, call.row, in.mask);
  tokens.sets = row_sets(linear.kept, linear.R, call.M, linear.part, linear.width, on);
  const TokenIds ids{linear.token, call.row, linear.V, linear.R, linear.temperature, tokens.sets.bad};
  LossPass pass = prepare_loss(in, ids, call.objective, on);
  begin_token_outputs(tokens, {logp, entropy, nullptr}, on);
  LinearChunk chunk = linear_chunk(linear, gradient ? &gradients : nullptr, call.chunk_rows, on);
  KeptRows kept{};
  const auto each_chunk = [&](bool with_gradient) {
    kept = kept_rows(linear, tokens, with_gradient ? &gradients : nullptr, on);
    chunk.named = named_rows(rows_without_set(tokens), on);
    chunk.whole_rows = kept.exist() ? chunk.named.count : nullptr;
    const bool forward = once || !with_gradient;
    if (with_gradient) begin_gradients(linear, chunk, gradients, on);
    for (int64_t begin = 0; begin < most_named(linear); begin += chunk.rows) {
      chunk_softmax(linear, chunk, begin, forward ? logp : nullptr, forward ? entropy : nullptr, nullptr, on);
      if (!with_gradient) continue;
      if (once)
        on(coefficients_kernel, {ceil_div(chunk.rows, kThreads), kThreads}, pass, chunk.named, begin, chunk.live,
           grad_logp, grad_entropy);
      chunk_gradient(linear, chunk, nullptr, nullptr, grad_logp, grad_entropy, gradients, on);
    }
    kept_softmax(linear, kept, forward ? logp : nullptr, forward ? entropy : nullptr, nullptr, on);
    if (!with_gradient) return;
    if (once && kept.exist())
      on(coefficients_kernel, {ceil_div(most_named(linear), kThreads), kThreads}, pass, kept.named, 0,
         reinterpret_cast<const int32_t*>(kept.named.count), grad_logp, grad_entropy);
    kept_gradient(linear, kept, chunk, nullptr, nullptr, grad_logp, grad_entropy, gradients, on);
    end_gradients(linear, chunk, gradients, on);
  };
  each_chunk(once);
  prepare_sequences(pass, gradient, on);
  policy_loss(pass, call.loss, once ? nullptr : grad_logp, once ? nullptr : grad_entropy, call.stats, on);
  if (!gradient || once) return;
  tokens.grad_logp = grad_logp, tokens.grad_entropy = grad_entropy;
  each_chunk(true);
}

GRPO_CUDA_OPERATION(kLinearPolicyLoss, linear_policy_loss);

}  // namespace grpo::cuda
