// Importance weights of a range of tokens, several tokens at a time: what importance_weight.cc calls and
// importance_range.cc compiles for each instruction set.
#pragma once

#include "loss/importance.h"

namespace grpo {

struct ImportanceInputs {
  const float *old_logp, *rollout_logp;  // [T]
  const uint8_t* mask;                   // [T], may be null
};

struct ImportanceRange {
  int64_t begin, end;
  // Of their sequence, where level or gate are a sequence's: the ratio of `level`, and whether the gate is closed.
  double ratio;
  bool gated;
};

struct ImportanceLanes {
  // Writes weight (may be null), before normalisation, and stats[kImportanceStatCount], those of rejection 0.
  void (*weights)(const ImportanceInputs& in, const ImportanceRange& range, float* weight, double* stats,
                  const ImportanceOptions& options);
  // x[i] = the divergence of token begin + i, i < n, also where it is masked.
  void (*estimates)(const ImportanceInputs& in, int64_t begin, int64_t n, Estimate estimate, float* x);
};

const ImportanceLanes& importance_lanes();

}  // namespace grpo
