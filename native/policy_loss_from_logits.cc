// The policy loss with its gradient with respect to the logits. With token-level ratios a row of logits is read from
// memory once and its gradient written once: softmax, the log-probabilities of its tokens, their coefficients and the
// gradient follow each other while the row is in cache. The ratio of a sequence needs the log-probabilities of all its
// rows: then a first pass reads the logits, and a second one forms the gradient. Either way loss and statistics come
// from policy_loss at the end, and memory beside the outputs is some 50 bytes per token and 24 per row that one names,
// whatever V is; with a soft-cap a row in float32 for each thread.
#include "logits/kept_rows.h"
#include "loss/policy_loss_args.h"

namespace grpo {
namespace {

struct Call {
  const Logits& logits;
  const RowTokens& tokens;
  const LossInputs& in;  // logp and entropy are the two arrays below
  const Denominators& denominators;
  const Objective& objective;
  float* logp;          // [T]
  float* entropy;       // [T]
  float* grad_logp;     // [T]
  float* grad_entropy;  // [T], null without an entropy bonus
  GradLogits grad_logits;
  Target* targets;        // [T]
  RowSoftmax* softmaxes;  // [rows of tokens], of a first pass
  const KeptMemory& memory;

  bool wants_gradient() const { return grad_logits.data != nullptr; }
};

RowSoftmax forward_row(const Call& call, int64_t r, int64_t i, const OwnRow& own) {
  const RowSoftmax softmax = softmax_of_row(own.logits, r, own.row);
  for (int32_t j = call.tokens.start[i]; j < call.tokens.start[i + 1]; ++j) {
    const int32_t t = call.tokens.t[j];
    call.logp[t] = static_cast<float>(logp_of_token(own.logits, r, own.row, softmax, t));
    call.entropy[t] = static_cast<float>(softmax.entropy);
  }
  return softmax;
}

void take_coefficients(const Call& call, int64_t i) {
  for (int32_t j = call.tokens.start[i]; j < call.tokens.start[i + 1]; ++j)
    token_gradient(call.in, call.denominators, call.tokens.t[j], call.grad_logp, call.grad_entropy, call.objective);
}

// `opened`: the row, if it is; one without a gradient need not be.
void backward_row(const Call& call, int64_t r, int64_t i, int worker, const RowSoftmax& softmax,
                  const OwnRow* opened = nullptr) {
  const float* grad_logp = coefficients_of_row(call.logits.kept, call.tokens, i, call.grad_logp, call.memory);
  if (row_gradient(call.tokens, i, grad_logp, call.grad_entropy).zero)
    return write_zero_row(call.logits, call.grad_logits, r);
  const auto gradient = [&](const OwnRow& own) {
    gradient_of_own_row(call.logits, own, softmax, call.tokens, i, grad_logp, call.grad_entropy, call.grad_logits,
                        call.targets, call.memory);
  };
  if (opened != nullptr) gradient(*opened);
  else gradient(OwnRow(call.logits, r, worker, call.memory));
}

void one_pass(const Call& call) {
  if (!call.wants_gradient())
    return for_named_rows(call.logits, call.tokens, [&](int64_t r, int64_t i, int worker) {
      forward_row(call, r, i, OwnRow(call.logits, r, worker, call.memory));
    });
  for_rows(call.logits, call.tokens, [&](int64_t r, int64_t i, int worker) {
    if (i < 0) return write_zero_row(call.logits, call.grad_logits, r);
    const OwnRow own(call.logits, r, worker, call.memory);
    const RowSoftmax softmax = forward_row(call, r, i, own);
    take_coefficients(call, i);
    backward_row(call, r, i, worker, softmax, &own);
  });
}

void first_pass(const Call& call) {
  for_named_rows(call.logits, call.tokens, [&](int64_t r, int64_t i, int worker) {
    call.softmaxes[i] = forward_row(call, r, i, OwnRow(call.logits, r, worker, call.memory));
  });
}

void second_pass(const Call& call) {
  for_rows(call.logits, call.tokens, [&](int64_t r, int64_t i, int worker) {
    if (i >= 0) backward_row(call, r, i, worker, call.softmaxes[i]);
    else write_zero_row(call.logits, call.grad_logits, r);
  });
}

using Args = grpo_policy_loss_from_logits_args;

int run(const Args& args, const Axes& axes) {
  if (const int status = check_vocabulary(args, axes)) return status;
  if (const int status = check_objective(args, true)) return status;
  const Objective objective = objective_of(args);
  LossInputs in = loss_inputs(args, axes);
  const int64_t T = in.T, R = axes['R'];
  const bool gradient = args.grad_logits != nullptr, by_token = objective.ratio == Ratio::kToken;
  Scratch<float> own_logp(args.logp == nullptr ? T : 0), own_entropy(args.entropy == nullptr ? T : 0);
  Scratch<float> grad_logp(gradient ? T : 0), grad_entropy(gradient && objective.entropy_coef != 0 ? T : 0);
  Scratch<Target> targets(gradient ? T : 0);
  Scratch<int32_t> rows(row_tokens_scratch(T)), count(in.S);
  Scratch<double> scratch(policy_loss_scratch(T, in.S, objective));
  const RowTokens tokens = row_tokens(data<int32_t>(args.row), in.mask, rows.data(), T, R);
  const KeptSets kept = kept_sets_of(args, axes);
  if (const int status = check_named_rows(args, axes, kept, tokens)) return status;
  KeptScratch kept_scratch(kept, axes, gradient);
  const KeptMemory memory = kept_scratch.memory();
  Scratch<RowSoftmax> softmaxes(by_token ? 0 : tokens.count);

  float* logp = args.logp != nullptr ? data<float>(args.logp) : own_logp.data();
  float* entropy = args.entropy != nullptr ? data<float>(args.entropy) : own_entropy.data();
  std::fill(logp, logp + T, 0.0f);  // what masked tokens keep
  std::fill(entropy, entropy + T, 0.0f);
  in.logp = logp;
  in.entropy = entropy;
  Denominators denominators;
  prepare_denominators(in, count.data(), denominators, objective);
  Logits logits = with_sets(logits_of(args, axes), kept, tokens, memory);
  CappedRows capped(logits);
  const Call call{logits,
                  tokens,
                  in,
                  denominators,
                  objective,
                  logp,
                  entropy,
                  gradient ? grad_logp.data() : nullptr,
                  gradient && objective.entropy_coef != 0 ? grad_entropy.data() : nullptr,
                  gradient ? grad_logits_of(args.grad_logits, args.logits) : GradLogits{},
                  targets.data(),
                  softmaxes.data(),
                  memory};

  if (by_token) one_pass(call);
  else first_pass(call);
  policy_loss(in, denominators, data<float>(args.loss), by_token ? nullptr : call.grad_logp,
              by_token ? nullptr : call.grad_entropy, data<double>(args.stats), scratch.data(), objective);
  if (!by_token && gradient) second_pass(call);
  return GRPO_OK;
}

int path_of(const Args& args, const Axes& axes, Path& path) {
  if (const int status = check_objective(args, true)) return status;
  return logits_path(args, axes, path);
}

const grpo_field kFields[] = {
    GRPO_IN(logits, "f32|bf16|f16[R,V] strided"),
    GRPO_IN(token, "i32[T] vocabulary V"),
    GRPO_IN(row, "i32[T] ? below R"),
    GRPO_IN(row_temperature, "f32[R] ?"),
    GRPO_IN(kept_start, "i32[R+1] ? offsets M"),
    GRPO_IN(kept, "i32[M] ?"),
    GRPO_POLICY_INPUTS,
    GRPO_RATIO_BOUNDS,
    GRPO_OUT(loss, "f32[1]"),
    GRPO_OUT(grad_logits, "~logits[R,V] strided over logits"),
    GRPO_OUT(logp, "f32[T]"),
    GRPO_OUT(entropy, "f32[T]"),
    GRPO_OUT(stats, "f64[15]"),
    GRPO_OPT(temperature, "number = 1 > 0 f32 inverse"),
    GRPO_OPT(softcap, "number? = null > 0 f32 inverse"),
    GRPO_OPT(valid_vocab, "integer? = null >= 0"),
    GRPO_OPT(grad_scale, "number = 1 f32"),
    GRPO_OBJECTIVE_FIELDS,
};

}  // namespace

GRPO_OPERATION_BY(path_of, kPolicyLossFromLogits, policy_loss_from_logits, kFields);

}  // namespace grpo
