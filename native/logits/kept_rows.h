// Rows of logits of which some have sets (kept_sets.h): such a row becomes a row of its own, of the logits that its set
// keeps, and its gradient is spread over the whole one.
#pragma once

#include "logits/logits.h"

namespace grpo {

// The memory of a call; none without sets.
class KeptScratch {
 public:
  KeptScratch(const KeptSets& kept, const Axes& axes, bool gradient)
      : column_(kept.start == nullptr ? 0 : axes['T']),
        logits_(kept.start == nullptr ? 0 : axes['M']),
        coefficient_(kept.start == nullptr || !gradient ? 0 : axes['T']),
        gradient_(kept.start == nullptr || !gradient ? 0 : axes['M']) {}
  KeptMemory memory() { return {column_.data(), logits_.data(), coefficient_.data(), gradient_.data()}; }

 private:
  Scratch<int32_t> column_;
  Scratch<float> logits_, coefficient_, gradient_;
};

// With the tokens' columns in place of their ids, where there are sets.
Logits with_sets(Logits logits, const KeptSets& kept, const RowTokens& tokens, const KeptMemory& memory);

Logits gathered_row(const Logits& logits, int64_t r, const KeptMemory& memory);

// Row r: itself, or the logits that its set keeps; opened, see Logits::open.
class OwnRow {
  Logits gathered_;

 public:
  OwnRow(const Logits& whole, int64_t r, int worker, const KeptMemory& memory)
      : logits(has_set(whole.kept, r) ? gathered_ = gathered_row(whole, r, memory) : whole),
        row(logits.open(r, worker)) {}
  OwnRow(const OwnRow&) = delete;

  const Logits& logits;
  const LogitRow row;
};

// As gradient_of_row, of the row that `own` is; grad_logp as coefficients_of_row gave it.
void gradient_of_own_row(const Logits& logits, const OwnRow& own, const RowSoftmax& softmax, const RowTokens& tokens,
                         int64_t i,
                         const float* grad_logp,     // [T]
                         const float* grad_entropy,  // [T], may be null
                         const GradLogits& grad_logits,
                         Target* targets,  // [T], scratch, of which the row takes its tokens' places
                         const KeptMemory& memory);

}  // namespace grpo
