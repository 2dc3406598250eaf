// The policy loss with its gradient with respect to the logits, by the kernels of logits_cluster.cuh. With token-level
// ratios a row of logits is read from memory once and its gradient written once: softmax, the log-probabilities of its
// tokens, their coefficients and the gradient follow each other in one kernel. The ratio of a sequence needs the
// log-probabilities of all its rows: then a first kernel reads the logits and keeps 24 bytes per row, and a second one
// reads them again for the gradient. Either way loss and statistics come from policy_loss at the end.
//
// Which kernel runs: for each pass that of token_logprob.cu, by the length of a row and the GPU; the second pass of
// ratios of sequences is always two_read_kernel, which reads a row once there.
#include "launch/operation.cuh"
#include "logits/logits_cluster.cuh"
#include "loss/policy_loss.cuh"

namespace grpo::cuda {
namespace {

// The derivatives of the whole loss by logp[t] and entropy[t], for each rank of a cluster. Not inlined: doubles and
// pointers would take registers from the loops over the logits.
struct TokenCoefficients {
  LossPass pass;
  float* grad_logp;     // [ranks,T]
  float* grad_entropy;  // [ranks,T], null without an entropy bonus

  using Operands = LoadedToken;

  __device__ __forceinline__ void load_by_warp(int64_t t, Operands& to) const {
    const Operands loaded = load_token<true>(pass, t, find_sequence_by_warp(pass.in, t));
    if (lane_index() == 0) to = loaded;
  }
  __device__ __attribute__((noinline)) void load(int64_t t, Operands& to) const {
    to = load_token<true>(pass, t, find_sequence(pass.in, t));
  }
  __device__ __attribute__((noinline)) void operator()(int64_t rank, int64_t t, const Operands& operands, float logp,
                                                       float entropy) const {
    const TokenTerm term = token_term<true>(pass, operands, logp, entropy);
    const int64_t place = rank * pass.in.T + t;
    grad_logp[place] = static_cast<float>(term.grad_logp);
    if (grad_entropy != nullptr) grad_entropy[place] = static_cast<float>(term.grad_entropy);
  }
};

using Args = grpo_policy_loss_from_logits_args;

int run(const Args& args, const Axes& axes, Launch& on) {
  if (const int status = check_vocabulary(args, axes)) return status;
  if (const int status = check_objective(args, true)) return status;
  const Objective objective = objective_of(args);
  LossInputs in = loss_inputs(args, axes);
  const int64_t T = in.T, R = axes['R'], V = valid_columns(args, axes);
  const bool gradient = args.grad_logits != nullptr, by_token = objective.ratio == Ratio::kToken;
  if (!by_token) on.because(kTwoPasses);
  const bool fused = gradient && by_token, bonus = objective.entropy_coef != 0;
  float* logp = args.logp != nullptr ? data<float>(args.logp) : on.scratch<float>(T);
  float* entropy = args.entropy != nullptr ? data<float>(args.entropy) : on.scratch<float>(T);
  const int64_t copies = fused ? copies_of_coefficients(on.device, V, size_of(float_type(args.logits))) : 1;
  float* grad_logp = gradient ? on.scratch<float>(copies * T) : nullptr;
  float* grad_entropy = gradient && bonus ? on.scratch<float>(copies * T) : nullptr;
  in.logp = logp;
  in.entropy = entropy;

  TokenRows tokens{data<int32_t>(args.token), data<int32_t>(args.row), in.mask, T, R, V};
  tokens.sets = row_sets(kept_sets_of(args, axes), R, axes['M'], false, axes['V'], on);
  const TokenIds ids{tokens.token, tokens.row, V, R, temperature_of(args), tokens.sets.bad};
  LossPass pass = prepare_loss(in, ids, objective, on);
  begin_token_outputs(tokens, {logp, entropy, nullptr}, on);
  RowWork work{};
  work.sets = tokens.sets;
  work.tokens = row_tokens(tokens, on);
  work.gathered = gradient && work.sets.set != nullptr ? on.scratch<float>(work.sets.M) : nullptr;
  work.logp = logp, work.entropy = entropy;
  work.grad_logp = grad_logp, work.grad_entropy = grad_entropy;
  work.target = gradient ? on.scratch<double>(T) : nullptr;
  work.softmax = gradient && !by_token ? on.scratch<SoftmaxOfRow>(softmaxes(R, T)) : nullptr;
  if (fused)
    with_types<true>(args, axes, args.grad_logits, [&](const auto& logits, const auto& gradients) {
      launch_rows<RowPass::kFused>(logits, gradients, work, TokenCoefficients{pass, grad_logp, grad_entropy}, on);
    });
  else
    with_types<false>(args, axes, nullptr, [&](const auto& logits, const auto& none) {
      launch_rows<RowPass::kForward>(logits, none, work, NoCoefficients{}, on);
    });
  prepare_sequences(pass, gradient, on);
  policy_loss(pass, data<float>(args.loss), by_token ? nullptr : grad_logp, by_token ? nullptr : grad_entropy,
              data<double>(args.stats), on);
  if (gradient && !by_token)
    with_types<true>(args, axes, args.grad_logits, [&](const auto& logits, const auto& gradients) {
      launch_rows<RowPass::kBackwardSaved>(logits, gradients, work, NoCoefficients{}, on);
    });
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kPolicyLossFromLogits, policy_loss_from_logits);

}  // namespace grpo::cuda
