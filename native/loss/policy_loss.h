// The policy loss from log-probabilities, for the operation of that name and for those that form the log-probabilities
// themselves. The formulas are in objective.h; here is what surrounds a token: masks, sequences, denominators, sums.
//
// An operation that wants a token's gradient while its logits are in cache calls prepare_denominators, then
// token_gradient for each token (token-level ratios), and policy_loss at the end for the loss and the statistics.
#pragma once

#include <cmath>
#include <cstdint>

#include "formulas/formula.h"
#include "loss/objective.h"

namespace grpo {

// Null: absent. One of advantage and token_advantage is there.
struct LossInputs {
  const float* logp;              // [T]
  const float* old_logp;          // [T]
  const float* ref_logp;          // [T]
  const float* advantage;         // [S]
  const float* token_advantage;   // [T]
  const int32_t* sequence_start;  // [S+1]
  const uint8_t* mask;            // [T]
  const float* weight;            // [T]
  const float* entropy;           // [T]
  const float* ratio_low;         // [T], token ratios only
  const float* ratio_high;        // [T]
  int64_t T, S;
};

// The layout of `stats`, over the unmasked tokens. Those of several calls merge by +, except for the two extremes.
// A NaN ratio makes the sum NaN and leaves the extremes alone.
enum Stat : int32_t {
  kStatTokens,
  kStatSequences,    // that count in a mean: those with unmasked tokens, or all with countEmpty
  kStatPolicy,       // sum of weight * surrogate, before aggregation
  kStatKlLoss,       // sum of what is added for the KL: klCoef, and the weight that klWeight names, included
  kStatEntropy,      // sum; 0 without entropy
  kStatClippedLow,   // tokens with A < 0 whose ratio (DPPO: probability) is below the interval
  kStatClippedHigh,  // tokens with A > 0 for which it is above
  kStatDualClipped,  // tokens with A < 0 whose ratio is above dualClip
  kStatRatio,        // sum; the ratio of a token is that of its sequence, where the objective's is
  kStatRatioMin,     // infinity without tokens
  kStatRatioMax,     // -infinity without tokens
  kStatApproxKl,     // sum of oldLogp - logp
  kStatKl,           // sum of the value of `kl`; 0 without refLogp
  // Tokens with a NaN or an infinity among their inputs (a NaN, for a ratio bound), or whose own term, or its
  // derivative by logp or entropy, is none that float32 holds. At least 1 where the loss is none. Not sums over tokens:
  // those that lead to the gradients of logits, hidden states and head would take another pass over these to look at.
  kStatNonFinite,
  kStatBadIndex,     // tokens with a bad id, row or offset: counted by the CUDA kernels only
  kStatCount,
};

// What a token's term, or its entropy, is multiplied by on its way into the loss.
struct Factor {
  double scale;        // 1 / denominator, 0 for a denominator of 0
  bool sequence_mean;  // also divided by the unmasked tokens of the sequence
};

struct Denominators {
  const int32_t* count;  // [S], unmasked tokens of each sequence
  int64_t tokens, sequences;
  Factor policy, entropy;
};

GRPO_FORMULA Factor factor_of(const Objective& objective, Aggregate aggregate, double normalizer, int64_t tokens,
                              int64_t sequences) {
  double denominator = 1;
  if (aggregate == Aggregate::kTokenMean) denominator = static_cast<double>(tokens);
  if (aggregate == Aggregate::kSequenceMean || aggregate == Aggregate::kSequenceSum)
    denominator = static_cast<double>(sequences);
  if (aggregate == Aggregate::kConstant) denominator = static_cast<double>(sequences) * objective.max_length;
  if (normalizer == normalizer) denominator = normalizer;  // not null
  return {denominator == 0 ? 0 : 1 / denominator, aggregate == Aggregate::kSequenceMean};
}

// Of so many unmasked tokens, in so many sequences that count.
GRPO_FORMULA Denominators denominators_of(const Objective& objective, const int32_t* count, int64_t tokens,
                                          int64_t sequences) {
  const Factor policy = factor_of(objective, objective.aggregate, objective.normalizer, tokens, sequences);
  const bool own = objective.entropy_aggregate != Aggregate::kNull;
  return {count, tokens, sequences, policy,
          own ? factor_of(objective, objective.entropy_aggregate, NAN, tokens, sequences) : policy};
}

// The factor of a token of sequence s.
GRPO_FORMULA double factor_at(const Factor& factor, const Denominators& denominators, int64_t s) {
  return factor.sequence_mean ? factor.scale / denominators.count[s] : factor.scale;
}

// From mask and sequence_start alone.
void prepare_denominators(const LossInputs& inputs,
                          int32_t* count,  // [S]; the Denominators point to it
                          Denominators& denominators, const Objective& objective);

// The sequence that token t belongs to.
int64_t sequence_of(const LossInputs& inputs, int64_t t);

// The derivatives of the whole loss with respect to logp[t] and entropy[t], with the bits that policy_loss gives them.
// Token-level ratios only.
void token_gradient(const LossInputs& inputs, const Denominators& denominators, int64_t t,
                    float* grad_logp,     // [T]
                    float* grad_entropy,  // [T], may be null
                    const Objective& objective);

// Doubles of scratch that policy_loss needs.
int64_t policy_loss_scratch(int64_t T, int64_t S, const Objective& objective);

// Loss, statistics and gradients; the result for a sequence depends on no other sequence and no thread count.
void policy_loss(const LossInputs& inputs, const Denominators& denominators,
                 float* loss,          // [1], may be null
                 float* grad_logp,     // [T], may be null
                 float* grad_entropy,  // [T], may be null
                 double* stats,        // [kStatCount], may be null
                 double* scratch,      // [policy_loss_scratch]
                 const Objective& objective);

}  // namespace grpo
