// What the args structs of the three loss operations share: descriptor fields, the reading of inputs and objective,
// and the check of what the generic checker cannot know, that the parts of an objective fit each other and the inputs.
#pragma once

#include <cmath>
#include <string>

#include "interface/operation.h"
#include "loss/policy_loss.h"

namespace grpo {

// The choices stand in the order of the enums of objective.h.
#define GRPO_OBJECTIVE_FIELDS                                                                                       \
  GRPO_OBJECTIVE_OPT(surrogate, "enum clip|cispo|sapo|reinforce|vespo|dro|dppo_tv|dppo_kl"),                        \
      GRPO_OBJECTIVE_OPT(ratio, "enum token|sequence|sequence_token|sequence_product|geometric"),                   \
      GRPO_OBJECTIVE_OPT(clip_low, "number? = 0.2"), GRPO_OBJECTIVE_OPT(clip_high, "number? = 0.2"),                \
      GRPO_OBJECTIVE_OPT(dual_clip, "number? = null > 1"),                                                          \
      GRPO_OBJECTIVE_OPT(log_ratio_clamp, "number? = null > 0"), GRPO_OBJECTIVE_OPT(kl_coef, "number = 0 f32"),     \
      GRPO_OBJECTIVE_OPT(kl, "enum k3|k1|k2|abs"), GRPO_OBJECTIVE_OPT(kl_gradient, "enum exact|k2"),                \
      GRPO_OBJECTIVE_OPT(kl_weight, "enum none|ratio|token_ratio"),                                                 \
      GRPO_OBJECTIVE_OPT(kl_clamp, "number? = null > 0"), GRPO_OBJECTIVE_OPT(kl_value_clamp, "number? = null > 0"), \
      GRPO_OBJECTIVE_OPT(entropy_coef, "number = 0 f32"),                                                           \
      GRPO_OBJECTIVE_OPT(entropy_aggregate, "enum? token_mean|sequence_mean|sequence_sum|constant|token_sum"),      \
      GRPO_OBJECTIVE_OPT(tau_positive, "number = 1 > 0 inverse"),                                                   \
      GRPO_OBJECTIVE_OPT(tau_negative, "number = 1.05 > 0 inverse"),                                                \
      GRPO_OBJECTIVE_OPT(aggregate, "enum token_mean|sequence_mean|sequence_sum|constant|token_sum"),               \
      GRPO_OBJECTIVE_OPT(max_length, "number? = null > 0 inverse"),                                                 \
      GRPO_OBJECTIVE_OPT(count_empty, "boolean = false"),                                                           \
      GRPO_OBJECTIVE_OPT(normalizer, "number? = null >= 0 inverse"),                                                \
      GRPO_OBJECTIVE_OPT(power_positive, "number = 2 >= 0"),                                                        \
      GRPO_OBJECTIVE_OPT(decay_positive, "number = 3 >= 0.0001"),                                                   \
      GRPO_OBJECTIVE_OPT(power_negative, "number = 3 >= 0"),                                                        \
      GRPO_OBJECTIVE_OPT(decay_negative, "number = 2 >= 0.0001"),                                                   \
      GRPO_OBJECTIVE_OPT(dro_beta, "number? = null > 0 f32"), GRPO_OBJECTIVE_OPT(ratio_cap, "number? = null > 0"),  \
      GRPO_OBJECTIVE_OPT(kl_weight_clamp, "number? = null > 0"),                                                    \
      GRPO_OBJECTIVE_OPT(kl_term_clamp, "number? = null > 0")

#define GRPO_POLICY_INPUTS                                                                                    \
  GRPO_IN(old_logp, "f32[T] ?"), GRPO_IN(ref_logp, "f32[T] ?"), GRPO_IN(advantage, "f32[S] ?"),               \
      GRPO_IN(token_advantage, "f32[T] ?"), GRPO_IN(sequence_start, "i32[S+1] offsets T"),                    \
      GRPO_IN(mask, "u8[T] ?"), GRPO_IN(weight, "f32[T] ?")

#define GRPO_RATIO_BOUNDS GRPO_IN(ratio_low, "f32[T] ?"), GRPO_IN(ratio_high, "f32[T] ?")

template <class Args>
Objective objective_of(const Args& args) {
  const grpo_objective& o = *args.objective;
  return {static_cast<Surrogate>(o.surrogate), static_cast<Ratio>(o.ratio),
          o.clip_low, o.clip_high, o.dual_clip, o.log_ratio_clamp,
          o.kl_coef, static_cast<Kl>(o.kl), static_cast<KlGradient>(o.kl_gradient), static_cast<KlWeight>(o.kl_weight),
          o.kl_clamp, o.kl_value_clamp,
          o.entropy_coef, static_cast<Aggregate>(o.entropy_aggregate),
          o.tau_positive, o.tau_negative,
          static_cast<Aggregate>(o.aggregate), o.max_length, o.count_empty != 0, o.normalizer,
          o.power_positive, o.decay_positive, o.power_negative, o.decay_negative, o.dro_beta, o.ratio_cap,
          o.kl_weight_clamp, o.kl_term_clamp, args.grad_scale};
}

// Without logp and entropy, which two of the operations compute themselves.
template <class Args>
LossInputs loss_inputs(const Args& args, const Axes& axes) {
  return {nullptr,
          data<float>(args.old_logp),
          data<float>(args.ref_logp),
          data<float>(args.advantage),
          data<float>(args.token_advantage),
          data<int32_t>(args.sequence_start),
          data<uint8_t>(args.mask),
          data<float>(args.weight),
          nullptr,
          data<float>(args.ratio_low),
          data<float>(args.ratio_high),
          axes['T'],
          axes['S']};
}

// Holds the parts of the objective against each other and against the inputs that are there. Absent is a null tensor:
// the data of an empty one may be null too.
template <class Args>
int check_objective(const Args& args, bool with_entropy) {
  const Objective objective = objective_of(args);
  const bool token_ratio = objective.ratio == Ratio::kToken, geometric = objective.ratio == Ratio::kGeometric;
  const bool dppo = objective.surrogate == Surrogate::kDppoTv || objective.surrogate == Surrogate::kDppoKl;
  const bool vespo = objective.surrogate == Surrogate::kVespo, dro = objective.surrogate == Surrogate::kDro;
  const auto refuse = [](const char* argument, const char* problem) { return fail(GRPO_OPTION, argument, problem); };

  if (args.advantage == nullptr && args.token_advantage == nullptr)
    return fail(GRPO_MISSING, "advantage", "is missing, expected it or {token_advantage}");
  if (args.advantage != nullptr && args.token_advantage != nullptr)
    return fail(GRPO_VALUE, "token_advantage", "is given beside {advantage}, expected one of the two");
  if (args.token_advantage != nullptr && geometric)
    return fail(GRPO_VALUE, "token_advantage",
                "is given with {ratio} \"geometric\", which takes one sign for a sequence: expected {advantage}");
  for (const char* bound : {args.ratio_low != nullptr ? "ratio_low" : nullptr,
                            args.ratio_high != nullptr ? "ratio_high" : nullptr})
    if (bound != nullptr && !token_ratio)
      return fail(GRPO_VALUE, bound, "bounds the ratio of a token, expected {ratio} \"token\"");
    else if (bound != nullptr && dppo)
      return fail(GRPO_VALUE, bound, "bounds the ratio of a token, but the {surrogate} bounds probabilities");

  if (geometric && objective.surrogate != Surrogate::kClip)
    return refuse("surrogate", "is not \"clip\", as {ratio} \"geometric\" needs: it clips before the average");
  if (vespo && objective.ratio != Ratio::kSequenceProduct)
    return refuse("ratio", "is not \"sequence_product\", as {surrogate} \"vespo\" needs");
  if ((dro || dppo) && !token_ratio)
    return refuse("ratio", "is not \"token\", as {surrogate} \"dro\", \"dppo_tv\" and \"dppo_kl\" need");
  if (dro == std::isnan(objective.dro_beta))
    return refuse("dro_beta", dro ? "is null, expected the factor of {surrogate} \"dro\""
                                  : "belongs to {surrogate} \"dro\", expected null");
  if (!std::isnan(objective.ratio_cap) && !dppo)
    return refuse("ratio_cap", "belongs to {surrogate} \"dppo_tv\" and \"dppo_kl\", expected null");
  if (!std::isnan(objective.dual_clip) && (objective.surrogate != Surrogate::kClip || geometric))
    return refuse("dual_clip", "belongs to {surrogate} \"clip\" with a ratio that is not \"geometric\", expected null");
  const bool one_interval = args.ratio_low == nullptr && args.ratio_high == nullptr;
  if (one_interval && objective.clip_low + objective.clip_high < 0)
    return refuse("clip_high", "is below -{clip_low}, so that no ratio lies between the bounds");
  if (objective.kl_weight == KlWeight::kRatio && geometric)
    return refuse("kl_weight",
                  "is \"ratio\", which {ratio} \"geometric\" does not define: expected \"none\" or \"token_ratio\"");
  if (objective.kl_weight == KlWeight::kNone && !std::isnan(objective.kl_weight_clamp))
    return refuse("kl_weight_clamp", "bounds the weight of the KL, but {kl_weight} is \"none\": expected null");
  if (objective.kl_coef != 0 && args.ref_logp == nullptr)
    return refuse("kl_coef", "is not 0, but {ref_logp} is missing: the KL is taken against it");
  if (objective.entropy_coef != 0 && !with_entropy)
    return refuse("entropy_coef", "is not 0, but {entropy} is missing");
  if (std::isnan(objective.max_length) &&
      (objective.aggregate == Aggregate::kConstant || objective.entropy_aggregate == Aggregate::kConstant))
    return refuse("max_length", "is null, expected a length: \"constant\" divides by sequences * {max_length}");
  return GRPO_OK;
}

}  // namespace grpo
