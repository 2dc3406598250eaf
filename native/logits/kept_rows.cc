#include "logits/kept_rows.h"

#include <cstring>

namespace grpo {

Logits with_sets(Logits logits, const KeptSets& kept, const RowTokens& tokens, const KeptMemory& memory) {
  if (kept.start == nullptr) return logits;
  place_tokens(kept, tokens, logits.token, memory);
  logits.kept = kept;
  logits.token = memory.column;
  logits.vocab_start = 0;
  return logits;
}

Logits gathered_row(const Logits& logits, int64_t r, const KeptMemory& memory) {
  const Kept here = kept_here(logits.kept, r);
  float* gathered = memory.logits + (here.ids - logits.kept.ids);
  for (int64_t j = 0; j < here.count; ++j)
    vector_kernels().convert(logits.row(r).x + (here.ids[j] - logits.kept.first) * size_of(logits.type), logits.type,
                             gathered + j, Float::kF32, 1);
  Logits own = logits;
  own.data = reinterpret_cast<const char*>(gathered);  // whatever r is, for the stride is 0
  own.type = Float::kF32;
  own.stride = 0;
  own.V = own.width = here.count;
  return own;
}

void gradient_of_own_row(const Logits& logits, const OwnRow& own, const RowSoftmax& softmax, const RowTokens& tokens,
                         int64_t i, const float* grad_logp, const float* grad_entropy, const GradLogits& grad_logits,
                         Target* targets, const KeptMemory& memory) {
  const int64_t r = tokens.row[i], size = size_of(grad_logits.type);
  if (!has_set(logits.kept, r))
    return gradient_of_row(logits, own.row, softmax, tokens, i, grad_logp, grad_entropy, grad_logits, targets);
  const Kept here = kept_here(logits.kept, r);
  GradLogits own_gradient = grad_logits;
  own_gradient.data = reinterpret_cast<char*>(memory.gradient + (here.ids - logits.kept.ids));
  own_gradient.stride = 0;
  gradient_of_row(own.logits, own.row, softmax, tokens, i, grad_logp, grad_entropy, own_gradient, targets);
  write_zero_row(logits, grad_logits, r);  // may be where the logits lie, which are gathered
  for (int64_t j = 0; j < here.count; ++j)
    std::memcpy(grad_logits.row(r) + (here.ids[j] - logits.kept.first) * size, own_gradient.data + j * size, size);
}

}  // namespace grpo
