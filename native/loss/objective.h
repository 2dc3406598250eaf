// The objective of the three loss operations. Their formulas stand in token_loss.h.
#pragma once

#include <cstdint>

namespace grpo {

enum class Surrogate : int32_t { kClip, kCispo, kSapo, kReinforce, kVespo, kDro, kDppoTv, kDppoKl };
enum class Ratio : int32_t { kToken, kSequence, kSequenceToken, kSequenceProduct, kGeometric };
enum class Kl : int32_t { kK3, kK1, kK2, kAbs };
enum class KlGradient : int32_t { kExact, kK2 };
enum class KlWeight : int32_t { kNone, kRatio, kTokenRatio };
enum class Aggregate : int32_t { kNull = -1, kTokenMean, kSequenceMean, kSequenceSum, kConstant, kTokenSum };

// A nullable number is NaN when it is null.
struct Objective {
  Surrogate surrogate;
  Ratio ratio;
  double clip_low, clip_high, dual_clip, log_ratio_clamp;  // nullable
  double kl_coef;
  Kl kl;
  KlGradient kl_gradient;
  KlWeight kl_weight;
  double kl_clamp, kl_value_clamp;  // nullable
  double entropy_coef;
  Aggregate entropy_aggregate;  // kNull: as `aggregate`
  double tau_positive, tau_negative;
  Aggregate aggregate;
  double max_length;  // nullable
  bool count_empty;
  double normalizer;  // nullable
  double power_positive, decay_positive, power_negative, decay_negative;
  double dro_beta, ratio_cap;  // nullable
  double kl_weight_clamp, kl_term_clamp;  // nullable
  double grad_scale;  // an option of the call: all derivatives are multiplied by it
};

}  // namespace grpo
