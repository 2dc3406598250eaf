// Log-probabilities of tokens and the entropy of the policy there, and the way back, by the kernels of
// logits_cluster.cuh and logits_rows.cuh. A row of logits is read from memory once, whatever the number of its tokens,
// and not at all without one; so neither forward nor backward reads the rows of masked tokens, and backward not those
// whose coefficients are 0.
//
// Which kernel runs: from compute capability 9.0 on, rows of 8 KiB or more (V = 2048 in float32, 4096 in 16 bits) that
// fit the shared memory of eight blocks (227 KiB each on an H100: V up to some 460,000 in float32) take one_read_kernel;
// on older GPUs, and for other rows, two_read_kernel reads a row again for its gradient, mostly from the L2 cache. Dtypes
// differ in neither. Rows that do not begin at a multiple of 16 bytes are loaded by
// threads, by shifted groups of 16 bytes.
#include "launch/operation.cuh"
#include "logits/logits_cluster.cuh"

namespace grpo::cuda {
namespace {

template <class Args>
TokenRows token_rows(const Args& args, const Axes& axes) {
  // A part of a vocabulary: ids beyond it belong to the other parts, any up to the end of int32.
  const int64_t valid = valid_columns(args, axes), start = args.vocab_start;
  const int64_t V = is_null(start) ? valid : int64_t{INT_MAX} + 1;
  TokenRows rows{data<int32_t>(args.token), data<int32_t>(args.row), data<uint8_t>(args.mask), axes['T'], axes['R'], V};
  if (!is_null(start)) rows.padding = start + valid, rows.padding_end = start + axes['V'];
  return rows;
}

template <class Args>
RowSets sets_of(const Args& args, const Axes& axes, Launch& on) {
  return row_sets(kept_sets_of(args, axes), axes['R'], axes['M'], is_part(args), axes['V'], on);
}

int run(const grpo_token_logprob_args& args, const Axes& axes, Launch& on) {
  if (const int status = check_vocabulary(args, axes)) return status;
  if (const int status = check_full(args)) return status;
  const int64_t T = axes['T'];
  float *full_logp = data<float>(args.full_logp), *full_logsumexp = data<float>(args.full_logsumexp);
  const auto memory = [&](DLTensor* given, bool needed) {
    return given == nullptr && needed ? on.scratch<float>(T) : data<float>(given);
  };
  float *logp = memory(args.logp, full_logp != nullptr), *entropy = data<float>(args.entropy);
  float* logsumexp = memory(args.logsumexp, full_logsumexp != nullptr);
  TokenRows tokens = token_rows(args, axes);
  tokens.sets = sets_of(args, axes, on);
  begin_token_outputs(tokens, {logp, entropy, logsumexp}, on);
  RowWork work{};
  const auto launch = [&] {
    work.tokens = row_tokens(tokens, on);
    with_types<false>(args, axes, nullptr, [&](const auto& logits, const auto& gradient) {
      launch_rows<RowPass::kForward>(logits, gradient, work, NoCoefficients{}, on);
    });
  };
  work.sets = tokens.sets;
  work.logp = logp, work.entropy = entropy, work.logsumexp = logsumexp;
  launch();
  if (full_logp != nullptr) copy_outputs(logp, full_logp, T, on);
  if (full_logsumexp != nullptr) copy_outputs(logsumexp, full_logsumexp, T, on);
  if ((full_logp == nullptr && full_logsumexp == nullptr) || work.sets.set == nullptr) return GRPO_OK;
  // And the whole rows of those that have sets.
  tokens.which = TokenRows::kWithSet;
  work = {};
  work.logp = full_logp, work.logsumexp = full_logsumexp;
  launch();
  return GRPO_OK;
}

int run(const grpo_token_logprob_backward_args& args, const Axes& axes, Launch& on) {
  if (const int status = check_vocabulary(args, axes)) return status;
  if (const int status = check_entropy(args.entropy, args.grad_entropy)) return status;
  if (args.grad_logits == nullptr) return GRPO_OK;
  RowWork work{};
  TokenRows tokens = token_rows(args, axes);
  work.sets = tokens.sets = sets_of(args, axes, on);
  work.tokens = row_tokens(tokens, on);
  work.gathered = work.sets.set == nullptr ? nullptr : on.scratch<float>(work.sets.M);
  work.given_logsumexp = data<float>(args.logsumexp);
  work.grad_logp = data<float>(args.grad_logp), work.grad_entropy = data<float>(args.grad_entropy);
  work.given_entropy = work.grad_entropy == nullptr ? nullptr : data<float>(args.entropy);
  work.grad_scale = args.grad_scale;
  work.target = on.scratch<double>(axes['T']);
  with_types<true>(args, axes, args.grad_logits, [&](const auto& logits, const auto& gradient) {
    launch_rows<RowPass::kBackward>(logits, gradient, work, NoCoefficients{}, on);
  });
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kTokenLogprob, token_logprob);
GRPO_CUDA_OPERATION(kTokenLogprobBackward, token_logprob_backward);

}  // namespace grpo::cuda
