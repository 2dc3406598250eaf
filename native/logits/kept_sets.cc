#include "logits/kept_sets.h"

#include <string>

namespace grpo {

int check_kept_inputs(const DLTensor* kept_start, const DLTensor* kept) {
  if ((kept_start == nullptr) == (kept == nullptr)) return GRPO_OK;
  if (kept == nullptr)
    return fail(GRPO_MISSING, "kept", "is missing, expected the ids of the sets that {kept_start} bounds");
  return fail(GRPO_MISSING, "kept_start", "is missing, expected where in {kept} each row's set begins");
}

int check_kept(const KeptSets& kept, const RowTokens& tokens, bool part, int64_t width) {
  if (kept.start == nullptr) return GRPO_OK;
  const int64_t end = part ? int64_t{1} << 31 : width;
  for (int64_t i = 0; i < tokens.count; ++i) {
    const int32_t r = tokens.row[i];
    for (int64_t j = kept.start[r]; j < kept.start[r + 1]; ++j) {
      const int64_t id = kept.ids[j];
      const auto has = [&] {
        return "has " + std::to_string(id) + " at " + std::to_string(j) + ", in the set of row " + std::to_string(r);
      };
      if (id < 0 || id >= end)
        return fail(GRPO_VALUE, "kept", has() + ", expected 0 to " + std::to_string(end - 1));
      if (id >= kept.end && id < kept.first + width)
        return fail(GRPO_VALUE, "kept",
                    has() + ", which is padding of the vocabulary: {valid_vocab} is " +
                        std::to_string(kept.end - kept.first));
      if (j > kept.start[r] && kept.ids[j - 1] >= id)
        return fail(GRPO_VALUE, "kept",
                    has() + ", after " + std::to_string(kept.ids[j - 1]) + ", expected ids that rise within a row");
    }
  }
  return GRPO_OK;
}

void place_tokens(const KeptSets& kept, const RowTokens& tokens, const int32_t* token, const KeptMemory& memory) {
  parallel_for(tokens.count, 64, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t r = tokens.row[i];
      for (int32_t j = tokens.start[i]; j < tokens.start[i + 1]; ++j) {
        const int32_t t = tokens.t[j], id = read_once(token + t);
        int64_t column = id - kept.first;
        if (has_set(kept, r)) {
          const Kept set = set_of(kept, r), here = kept_here(kept, r);
          const int64_t found = ids_before(set, id), place = set.ids + found - here.ids;
          if (found == set.count || set.ids[found] != id) column = kOutside;
          else column = place >= 0 && place < here.count ? place : -1;
        }
        memory.column[t] = static_cast<int32_t>(column);
      }
    }
  });
}

const float* coefficients_of_row(const KeptSets& kept, const RowTokens& tokens, int64_t i, const float* grad_logp,
                                 const KeptMemory& memory) {
  if (!has_set(kept, tokens.row[i])) return grad_logp;
  for (int32_t j = tokens.start[i]; j < tokens.start[i + 1]; ++j) {
    const int32_t t = tokens.t[j];
    memory.coefficient[t] = memory.column[t] == kOutside ? 0 : grad_logp[t];
  }
  return memory.coefficient;
}

}  // namespace grpo
