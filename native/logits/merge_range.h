// The log-probabilities of a range of tokens from those of the parts of a vocabulary.
#pragma once

#include <cstdint>

namespace grpo {

struct Parts {
  const float *logp, *entropy, *logsumexp;                    // [T]
  const float *other_logp, *other_entropy, *other_logsumexp;  // [N,T]
  int64_t N, T;
};

struct Merged {
  float *logp, *entropy, *logsumexp;  // [T] each, may be null
};

// Both for this machine's instruction set; all sets give the same bits.
struct MergeRange {
  void (*merge)(const Parts& parts, const Merged& out, int64_t begin, int64_t end);
  // The first token of the range that is claimed twice; `end` where none is.
  int64_t (*first_claimed_twice)(const Parts& parts, int64_t begin, int64_t end);
};
MergeRange merge_range();

// Whether a part's logp says that it holds the token.
bool claims_token(double logp);

}  // namespace grpo
