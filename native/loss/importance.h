// Importance weights of the trainer over the inference engine: options, statistics, and the arguments of the operation,
// for both backends. What becomes of one token stands in importance_token.h.
#pragma once

#include <cmath>

#include "interface/operation.h"

namespace grpo {

// Whose ratio. kNull: no gate.
enum class ImportanceLevel : int32_t { kNull = -1, kToken, kSequence, kSequenceMean };
enum class Outside : int32_t { kBound, kZero, kNone };
// Over what a statistic of rejection is taken, and of which estimate of the divergence.
enum class RejectionScope : int32_t { kNull = -1, kToken, kSum, kMean, kMax };
enum class Estimate : int32_t { kK1, kK2, kK3 };

// As lib/importance_stats.ts names them; sums over unmasked tokens but for the extremes.
enum ImportanceStat : int32_t {
  kImportanceTokens,
  kLogpDifference,
  kLogpDifferenceMax,
  kEngineKl,
  kImportanceRatio,
  kImportanceRatioMin,
  kImportanceRatioMax,
  kWeight,
  kWeightSquare,
  kCutLow,
  kCutHigh,
  kGated,
  kRejected,
  kImportanceNonFinite,
  kImportanceStatCount,
};

struct ImportanceOptions {
  ImportanceLevel level;
  Outside outside;
  double low, high;  // 0 and infinity where there is no bound
  ImportanceLevel gate;
  double gate_low, gate_high;
  bool normalize;
  RejectionScope scope;
  Estimate estimate;
  double reject_low, reject_high;

  // Whether any number of a sequence is needed.
  bool any_sequence() const {
    return level != ImportanceLevel::kToken || gate > ImportanceLevel::kToken || scope > RejectionScope::kToken;
  }
};

// The options that do not fit each other; names the one that is wrong.
inline int check_importance(const grpo_importance_weight_args& args) {
  const bool bounded = args.outside != static_cast<int32_t>(Outside::kNone);
  if (bounded && !is_null(args.low) && !is_null(args.high) && args.low > args.high)
    return fail(GRPO_OPTION, "low", "is above {high}, expected a number from 0 to {high}");
  if (args.gate >= 0 && !is_null(args.gate_low) && !is_null(args.gate_high) && args.gate_low > args.gate_high)
    return fail(GRPO_OPTION, "gate_low", "is above {gate_high}, expected a number from 0 to {gate_high}");
  if (args.reject < 0) return GRPO_OK;
  if (is_null(args.reject_high)) return fail(GRPO_OPTION, "reject_high", "is null, expected the bound of {reject}");
  const bool k1 = args.reject < 9 && args.reject % 3 == 0;
  if (!k1 && !is_null(args.reject_low))
    return fail(GRPO_OPTION, "reject_low", "is given, expected null: k2 and k3 have an upper bound only");
  if (k1 && is_null(args.reject_low) && args.reject_high < 1)
    return fail(GRPO_OPTION, "reject_high", "is below 1, expected at least 1 without {reject_low}, which is then its inverse");
  if (k1 && args.reject_low > args.reject_high)
    return fail(GRPO_OPTION, "reject_low", "is above {reject_high}, expected a number from 0 to {reject_high}");
  return GRPO_OK;
}

inline ImportanceOptions importance_options(const grpo_importance_weight_args& args) {
  const auto low = [](double x) { return is_null(x) ? 0 : x; };
  const auto high = [](double x) { return is_null(x) ? static_cast<double>(INFINITY) : x; };
  const bool bounded = args.outside != static_cast<int32_t>(Outside::kNone), gate = args.gate >= 0;
  ImportanceOptions o{static_cast<ImportanceLevel>(args.level),
                      static_cast<Outside>(args.outside),
                      bounded ? low(args.low) : 0,
                      bounded ? high(args.high) : INFINITY,
                      static_cast<ImportanceLevel>(args.gate),
                      gate ? low(args.gate_low) : 0,
                      gate ? high(args.gate_high) : INFINITY,
                      args.normalize != 0,
                      RejectionScope::kNull,
                      Estimate::kK1,
                      -INFINITY,
                      high(args.reject_high)};
  if (args.reject < 0) return o;
  // In the order of the row: three estimates of a token, of a sum and of a mean; then the maxima, which k1 has not.
  o.scope = args.reject < 9 ? static_cast<RejectionScope>(args.reject / 3) : RejectionScope::kMax;
  o.estimate = static_cast<Estimate>(args.reject < 9 ? args.reject % 3 : args.reject - 8);
  if (o.estimate == Estimate::kK1) {
    o.reject_low = std::log(is_null(args.reject_low) ? 1 / args.reject_high : args.reject_low);
    o.reject_high = std::log(args.reject_high);
  }
  return o;
}

}  // namespace grpo
