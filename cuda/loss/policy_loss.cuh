// The term of one token on the device, for policy_loss and for the operations that form the log-probabilities
// themselves. The formulas are those of the CPU, native/loss/token_loss.h with double; here is what surrounds a token:
// mask, sequence, bad indices, denominators, statistics.
//
// An operation calls, in stream order,
//
//   LossPass pass = prepare_loss(inputs, ids, objective, on);   from masks and offsets alone: counts, denominators
//   prepare_sequences(pass, gradient, on);                      once logp is there; nothing for ratios of tokens
//   policy_loss(pass, loss, grad_logp, grad_entropy, stats, on);
//
// and between them its own kernels may ask token_term() for a token's derivatives: after prepare_loss for ratios of
// tokens, after prepare_sequences for those of sequences. The bits are those that policy_loss writes.
#pragma once

#include "blocks/offsets.cuh"
#include "native/logits/temperature.h"
#include "native/loss/policy_loss_args.h"

namespace grpo::cuda {

#include "native/loss/token_loss.h"

// What a kernel has to check before it reads a row of logits. Null: nothing to check.
struct TokenIds {
  const int32_t* token;  // [T], 0 to V - 1
  const int32_t* row;    // [T], 0 to R - 1; null: t
  int64_t V, R;
  Temperature temperature{};  // of the rows
  const uint8_t* bad_row = nullptr;  // [R], not 0: a row that no token may name
};

// `good`: sequence_start rises from 0 to T. Where it does not, every unmasked token has a bad index: which sequence it
// belongs to, and how many tokens that has, nobody can tell.
struct CheckedDenominators : Denominators {
  bool good;
};

// All that a token's term depends on; a kernel takes it by value. Pointers are the device's.
struct LossPass {
  LossInputs in;
  TokenIds ids;
  Objective objective;
  const CheckedDenominators* denominators;  // [1]
  // Null for ratios of tokens: the log-ratio of each sequence, not clamped, and what each of its tokens gets through it
  // before aggregation (null too where the gradient flows to the own token, or is not wanted).
  const double* log_ratio;          // [S]
  const double* sequence_gradient;  // [S]
  Interval<double> interval;        // the objective's
};

LossPass prepare_loss(const LossInputs& inputs, const TokenIds& ids, const Objective& objective, Launch& on);
void prepare_sequences(LossPass& pass, bool gradient, Launch& on);
// Reads logp and entropy of pass.in. Where `ids` are bad it reads them too, but their values do not matter.
void policy_loss(const LossPass& pass,
                 float* loss,          // [1], may be null
                 float* grad_logp,     // [T], may be null
                 float* grad_entropy,  // [T], may be null
                 double* stats,        // [kStatCount], may be null
                 Launch& on);

// ---- the device's side ----------------------------------------------------------------------------------------------

__device__ __forceinline__ bool unmasked(const LossInputs& in, int64_t t) {
  return in.mask == nullptr || in.mask[t] != 0;
}

__device__ __forceinline__ bool good_id(const TokenIds& ids, int64_t t) {
  return (ids.token == nullptr || (ids.token[t] >= 0 && ids.token[t] < ids.V)) &&
         (ids.row == nullptr || (ids.row[t] >= 0 && ids.row[t] < ids.R)) &&
         is_temperature(ids.temperature, ids.row == nullptr ? t : ids.row[t]) &&
         (ids.bad_row == nullptr || ids.bad_row[ids.row == nullptr ? t : ids.row[t]] == 0);
}

// The last of the sequences low to high that begins at or before t, `low` if none does: the token's, where the offsets
// are good, and always one of these.
__device__ __forceinline__ int64_t find_sequence(const LossInputs& in, int64_t t, int64_t low, int64_t high) {
  return last_at_most(in.sequence_start, low, high, t);
}
__device__ __forceinline__ int64_t find_sequence(const LossInputs& in, int64_t t) {
  return find_sequence(in, t, 0, in.S - 1);
}
// By a warp, that looks at 32 places at a time: for 1,024 sequences two loads after each other, where a thread has 10.
__device__ __forceinline__ int64_t find_sequence_by_warp(const LossInputs& in, int64_t t) {
  int64_t low = 0, high = in.S - 1;
  while (low < high) {
    const int64_t step = ceil_div(high - low, kWarp), place = low + (lane_index() + 1) * step;
    low += step * __popc(__ballot_sync(kAllLanes, place <= high && in.sequence_start[place] <= t));
    high = low + step - 1 < high ? low + step - 1 : high;
  }
  return low;
}

// x * factor, which is 0 or above. Not 0 * x: a denominator of 0 gives 0, also where x is NaN.
__device__ __forceinline__ double scaled(double factor, double x) {
  return __double_as_longlong(factor) != 0 ? factor * x : 0;
}

// What the tokens of a sequence have in common. A loop over tokens keeps it while the sequence stays: an aggregate by
// sequences divides for it.
struct SequenceFactors {
  double policy, entropy;
};

__device__ __forceinline__ SequenceFactors sequence_factors(const LossPass& pass, int64_t s) {
  const CheckedDenominators& denominators = *pass.denominators;
  const bool bonus = pass.objective.entropy_coef != 0;
  return {factor_at(denominators.policy, denominators, s),
          bonus ? factor_at(denominators.entropy, denominators, s) : 0};
}

struct TokenTerm {
  double loss;                     // what it adds to the loss
  double grad_logp, grad_entropy;  // derivatives of the whole loss
  double grad_log_ratio;           // of its own term by the log-ratio of its sequence, before aggregation
  double policy, kl_loss, entropy, ratio, approx_kl, kl;  // what it adds to the statistics of these names
  bool clipped_low, clipped_high, clipped_dual, non_finite;
};

// Unmasked, with a bad id, row or offset: loss and derivatives are NaN.
__device__ __forceinline__ bool bad_token(const LossPass& pass, int64_t t) {
  return !pass.denominators->good || !good_id(pass.ids, t);
}

// What a token's term is formed of beside its logp, its entropy and the factors of its sequence. Loading it waits for
// memory, and may be done long before the term is formed. What is read and only compared or looked at stays float32.
struct TokenOperands {
  double log_ratio, sequence_gradient;  // of the sequence, where the pass has them
  float old_logp, ref_logp, advantage, weight, ratio_low, ratio_high;
  bool alone;
};

// Of token t of sequence s. Loads do not wait for each other: what is loaded of a masked or bad token does not matter.
// kByToken: the caller knows that ratios are those of tokens.
template <bool kByToken = false>
__device__ __forceinline__ TokenOperands load_operands(const LossPass& pass, int64_t t, int64_t s) {
  const LossInputs& in = pass.in;
  const auto at = [](const float* x, int64_t i) { return x == nullptr ? 0 : x[i]; };
  TokenOperands token = {};
  if (!kByToken && pass.log_ratio != nullptr) token.log_ratio = pass.log_ratio[s];
  if (!kByToken && pass.sequence_gradient != nullptr) token.sequence_gradient = pass.sequence_gradient[s];
  token.old_logp = at(in.old_logp, t);
  token.ref_logp = at(in.ref_logp, t);
  token.advantage = in.token_advantage != nullptr ? in.token_advantage[t] : at(in.advantage, s);
  token.weight = in.weight == nullptr ? 1 : in.weight[t];
  token.ratio_low = at(in.ratio_low, t);
  token.ratio_high = at(in.ratio_high, t);
  token.alone = !kByToken && pass.objective.ratio != Ratio::kToken && pass.denominators->count[s] == 1;
  return token;
}

// Of a token that is neither masked nor bad. `logp` and `entropy` are rounded to float32; factors_of() is called where
// the factors are needed, and not before: there are few registers.
template <bool kByToken = false, class FactorsOf>
__device__ __forceinline__ TokenTerm live_term(const LossPass& pass, const TokenOperands& operands, FactorsOf factors_of,
                                               double logp, double entropy) {
  const LossInputs& in = pass.in;
  const Objective& objective = pass.objective;
  TokenTerm term;
  term.grad_entropy = 0;
  const bool own_ratio = kByToken || objective.ratio == Ratio::kToken;
  const bool geometric = !kByToken && objective.ratio == Ratio::kGeometric;
  const float old_logp = in.old_logp == nullptr ? static_cast<float>(logp) : operands.old_logp;
  // Without old log-probabilities 0, but NaN where logp is not finite: that has to show in the loss.
  const double log_ratio = logp - old_logp;
  const float advantage = operands.advantage, weight = operands.weight, ref_logp = operands.ref_logp;
  Token<double> token;
  token.logp = logp;
  token.old_logp = old_logp;
  token.alone = operands.alone;
  token.advantage = advantage;
  token.weight = weight;
  token.ratio = importance_ratio(objective, own_ratio ? log_ratio : operands.log_ratio);
  Interval<double> bounds = pass.interval;
  token.interval = bounds;
  bool no_bound = false;
  if (in.ratio_low != nullptr || in.ratio_high != nullptr) {
    if (in.ratio_low != nullptr) bounds.low = operands.ratio_low;
    if (in.ratio_high != nullptr) bounds.high = operands.ratio_high;
    token.interval = given_interval(bounds.low, bounds.high);
    no_bound = bounds.low != bounds.low || bounds.high != bounds.high;
  }
  if (geometric) token.interval = {-INFINITY, INFINITY};
  token.ref_log_ratio = in.ref_logp == nullptr ? 0 : logp - ref_logp;
  const TokenLoss<double> loss = token_loss(objective, token);

  const SequenceFactors factors = factors_of();
  const double own = loss.policy + loss.kl_loss;
  term.loss = scaled(factors.policy, own);
  bool holds = float32_holds(own);
  if (objective.entropy_coef != 0) {
    term.loss -= scaled(factors.entropy, entropy * objective.entropy_coef);
    const double by_entropy = 0 - objective.entropy_coef * factors.entropy;
    term.grad_entropy = objective.grad_scale * by_entropy;
    holds &= float32_holds(by_entropy);
  }
  term.grad_log_ratio = loss.grad_log_ratio;

  double through_ratio =
      own_ratio || objective.ratio == Ratio::kSequenceToken ? loss.grad_log_ratio : operands.sequence_gradient;
  // No gradient flows through what is cut before it enters the ratio; a NaN is not cut.
  if (geometric || objective.surrogate == Surrogate::kVespo) {
    const double kept = summed_log_ratio<double>(objective, log_ratio, advantage, bounds);
    if (kept != log_ratio && log_ratio == log_ratio) through_ratio = 0;
  }
  term.grad_logp = objective.grad_scale * scaled(factors.policy, loss.grad_logp + through_ratio) + 0.0;  // + 0: no -0

  term.policy = loss.policy;
  term.kl_loss = loss.kl_loss;
  term.entropy = entropy;
  term.ratio = token.ratio.value;
  term.approx_kl = -log_ratio;
  term.kl = loss.kl;
  const Clipping<double> clip = clipping(objective, token, geometric ? log_ratio : token.ratio.value, bounds);
  term.clipped_low = clip.low;
  term.clipped_high = clip.high;
  term.clipped_dual = clip.dual;
  holds &= float32_holds(term.loss) && float32_holds(scaled(factors.policy, loss.grad_logp + loss.grad_log_ratio));
  // 0 times a number is 0, and NaN for an infinity.
  const float read = 0 * static_cast<float>(logp) + 0 * old_logp + 0 * ref_logp + 0 * static_cast<float>(entropy) +
                     0 * advantage + 0 * weight;
  term.non_finite = !holds || read != 0 || no_bound;
  return term;
}

// All that is loaded for the term of a token.
struct LoadedToken {
  TokenOperands operands;
  SequenceFactors factors;
  bool unmasked, bad;
};

// Of any token, for which find_sequence() gave s.
template <bool kByToken = false>
__device__ __forceinline__ LoadedToken load_token(const LossPass& pass, int64_t t, int64_t s) {
  LoadedToken token = {};
  token.unmasked = unmasked(pass.in, t);
  token.bad = bad_token(pass, t);
  if (pass.in.S == 0) return token;  // bad, and no array of sequences has an element
  token.factors = sequence_factors(pass, s);
  token.operands = load_operands<kByToken>(pass, t, s);
  return token;
}

// All 0 and false for a masked token.
template <bool kByToken = false>
__device__ __forceinline__ TokenTerm token_term(const LossPass& pass, const LoadedToken& token, double logp,
                                                double entropy) {
  TokenTerm term = {};
  if (!token.unmasked) return term;
  if (!token.bad)
    return live_term<kByToken>(pass, token.operands, [&] { return token.factors; }, logp, entropy);
  term.loss = term.grad_logp = term.grad_entropy = term.grad_log_ratio = NAN;
  return term;
}
__device__ __forceinline__ TokenTerm token_term(const LossPass& pass, int64_t t, int64_t s, double logp,
                                                double entropy) {
  return token_term(pass, load_token(pass, t, s), logp, entropy);
}

}  // namespace grpo::cuda
