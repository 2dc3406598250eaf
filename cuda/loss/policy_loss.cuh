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

// x * factor. Not 0 * x: a denominator of 0 gives 0, also where x is NaN.
__device__ __forceinline__ double scaled(double factor, double x) { return factor != 0 ? factor * x : 0; }

// All 0 and false for a masked token.
struct TokenTerm {
  double loss;                     // what it adds to the loss
  double grad_logp, grad_entropy;  // derivatives of the whole loss
  double grad_log_ratio;           // of its own term by the log-ratio of its sequence, before aggregation
  double policy, kl_loss, entropy, ratio, approx_kl, kl;  // what it adds to the statistics of these names
  bool live;                       // it counts: unmasked, and not bad
  bool bad;                        // unmasked, with a bad id, row or offset: loss and derivatives are NaN
  bool clipped_low, clipped_high, clipped_dual, non_finite;
};

// What a token's term is formed of beside its logp and entropy. Loading it waits for memory, and may be done long before
// the term is formed.
struct TokenOperands {
  double policy_factor, entropy_factor;
  double log_ratio, sequence_gradient;  // of the sequence, where the pass has them
  float old_logp, ref_logp, advantage, weight, ratio_low, ratio_high;
  bool unmasked, bad, alone;
};

// Of token t, for which find_sequence() gave s. Loads do not wait for each other: what is loaded of a masked or bad
// token does not matter. kByToken: the caller knows that ratios are those of tokens.
template <bool kByToken = false>
__device__ __forceinline__ TokenOperands load_token(const LossPass& pass, int64_t t, int64_t s) {
  const LossInputs& in = pass.in;
  const CheckedDenominators& denominators = *pass.denominators;
  TokenOperands token = {};
  token.unmasked = unmasked(in, t);
  token.bad = !denominators.good || !good_id(pass.ids, t);
  if (in.S == 0) return token;  // bad, and no array of sequences has an element
  const auto at = [](const float* x, int64_t i) { return x == nullptr ? 0 : x[i]; };
  token.policy_factor = factor_at(denominators.policy, denominators, s);
  token.entropy_factor = factor_at(denominators.entropy, denominators, s);
  if (!kByToken && pass.log_ratio != nullptr) token.log_ratio = pass.log_ratio[s];
  if (!kByToken && pass.sequence_gradient != nullptr) token.sequence_gradient = pass.sequence_gradient[s];
  token.old_logp = at(in.old_logp, t);
  token.ref_logp = at(in.ref_logp, t);
  token.advantage = in.token_advantage != nullptr ? in.token_advantage[t] : at(in.advantage, s);
  token.weight = in.weight == nullptr ? 1 : in.weight[t];
  token.ratio_low = at(in.ratio_low, t);
  token.ratio_high = at(in.ratio_high, t);
  token.alone = !kByToken && pass.objective.ratio != Ratio::kToken && denominators.count[s] == 1;
  return token;
}

// `logp` and `entropy` are rounded to float32.
template <bool kByToken = false>
__device__ __forceinline__ TokenTerm token_term(const LossPass& pass, const TokenOperands& operands, double logp,
                                                double entropy) {
  const LossInputs& in = pass.in;
  const Objective& objective = pass.objective;
  TokenTerm term = {};
  if (!operands.unmasked) return term;
  if (operands.bad) {
    term.bad = true;
    term.loss = term.grad_logp = term.grad_entropy = term.grad_log_ratio = NAN;
    return term;
  }
  term.live = true;
  const bool own_ratio = kByToken || objective.ratio == Ratio::kToken;
  const bool geometric = !kByToken && objective.ratio == Ratio::kGeometric;
  const double old_logp = in.old_logp == nullptr ? logp : operands.old_logp;
  // Without old log-probabilities 0, but NaN where logp is not finite: that has to show in the loss.
  const double log_ratio = logp - old_logp;
  const double advantage = operands.advantage;
  Token<double> token;
  token.logp = logp;
  token.old_logp = old_logp;
  token.alone = operands.alone;
  token.advantage = advantage;
  token.weight = operands.weight;
  token.ratio = importance_ratio(objective, own_ratio ? log_ratio : operands.log_ratio);
  token.interval = clip_interval<double>(objective);
  if (in.ratio_low != nullptr) token.interval.low = operands.ratio_low;
  if (in.ratio_high != nullptr) token.interval.high = operands.ratio_high;
  const Interval<double> bounds = token.interval;
  if (geometric) token.interval = {-INFINITY, INFINITY};
  const double ref_logp = operands.ref_logp;
  token.ref_log_ratio = in.ref_logp == nullptr ? 0 : logp - ref_logp;
  const TokenLoss<double> loss = token_loss(objective, token);

  const double factor = operands.policy_factor, entropy_factor = operands.entropy_factor;
  const double own = loss.policy + loss.kl_loss;
  term.loss = scaled(factor, own);
  if (objective.entropy_coef != 0) term.loss -= scaled(entropy_factor, entropy * objective.entropy_coef);
  const double by_entropy = 0 - objective.entropy_coef * entropy_factor;
  term.grad_entropy = objective.grad_scale * by_entropy;
  term.grad_log_ratio = loss.grad_log_ratio;

  double through_ratio =
      own_ratio || objective.ratio == Ratio::kSequenceToken ? loss.grad_log_ratio : operands.sequence_gradient;
  // No gradient flows through what is cut before it enters the ratio; a NaN is not cut.
  const double kept = summed_log_ratio(objective, log_ratio, advantage, bounds);
  if ((geometric || objective.surrogate == Surrogate::kVespo) && kept != log_ratio && log_ratio == log_ratio)
    through_ratio = 0;
  term.grad_logp = objective.grad_scale * scaled(factor, loss.grad_logp + through_ratio) + 0.0;  // + 0: no -0

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
  // A sum of floats is finite in double exactly where all of them are.
  const double read = logp + old_logp + ref_logp + entropy + advantage + token.weight;
  term.non_finite = read - read != 0 || bounds.low != bounds.low || bounds.high != bounds.high || !float32_holds(own) ||
                    !float32_holds(term.loss) || !float32_holds(scaled(factor, loss.grad_logp + loss.grad_log_ratio)) ||
                    !float32_holds(by_entropy);
  return term;
}
__device__ __forceinline__ TokenTerm token_term(const LossPass& pass, int64_t t, int64_t s, double logp,
                                                double entropy) {
  return token_term(pass, load_token(pass, t, s), logp, entropy);
}

}  // namespace grpo::cuda
