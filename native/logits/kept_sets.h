// The ids that a row was sampled from (top-p, top-k, a grammar), where the call has such sets: the softmax of a row
// with a set runs over these alone, by gathering their logits into a row of their own, which the code of whole rows
// takes.
// What the backends have in common comes first.
#pragma once

#include <cstdint>

#include "formulas/formula.h"
#include "interface/operation.h"
#include "logits/softmax_rows.h"

namespace grpo {

// Ids of a set, rising.
struct Kept {
  const int32_t* ids;
  int64_t count;
};

struct KeptSets {
  const int32_t* start = nullptr;  // [R+1], null: no row has a set
  const int32_t* ids = nullptr;    // [M]
  int64_t first = 0, end = 0;      // the ids of the columns that there are
};

// An empty set means the whole vocabulary.
GRPO_FORMULA bool has_set(const KeptSets& kept, int64_t r) {
  return kept.start != nullptr && kept.start[r + 1] > kept.start[r];
}

GRPO_FORMULA Kept set_of(const KeptSets& kept, int64_t r) {
  return {kept.ids + kept.start[r], int64_t{kept.start[r + 1]} - kept.start[r]};
}

// How many ids of the set come before `id`.
GRPO_FORMULA int64_t ids_before(const Kept& set, int64_t id) {
  int64_t low = 0, high = set.count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (set.ids[middle] < id) low = middle + 1;
    else high = middle;
  }
  return low;
}

// The ids of row r whose columns are here: of a part of a vocabulary not all of them, and maybe none.
GRPO_FORMULA Kept kept_here(const KeptSets& kept, int64_t r) {
  const Kept set = set_of(kept, r);
  const int64_t begin = ids_before(set, kept.first);
  return {set.ids + begin, ids_before(set, kept.end) - begin};
}

// Columns 0 to V - 1 are the ids from vocab_start on.
template <class Args>
KeptSets kept_sets_of(const Args& args, int64_t vocab_start, int64_t V) {
  if (args.kept_start == nullptr || args.kept == nullptr) return {};
  return {data<int32_t>(args.kept_start), data<int32_t>(args.kept), vocab_start, vocab_start + V};
}

// The two inputs belong together; before any memory is looked at.
int check_kept_inputs(const DLTensor* kept_start, const DLTensor* kept);

// What is asked for beside the sets: outputs of the whole vocabulary where `full` says so.
template <class Args>
int check_full(const Args& args) {
  if (args.full != 0 || (args.full_logp == nullptr && args.full_logsumexp == nullptr)) return GRPO_OK;
  return fail(GRPO_OPTION, "full",
              std::string("is false, but {") + (args.full_logp != nullptr ? "full_logp" : "full_logsumexp") +
                  "} is given");
}

// ---- on the host ----------------------------------------------------------------------------------------------------

// The sets of the rows that tokens name: ids rise within the vocabulary, of `width` columns from kept.first on or of
// which those are a part, and are no padding of it.
int check_kept(const KeptSets& kept, const RowTokens& tokens, bool part, int64_t width);

// The column of a token that is not in its row's set: its logp is -inf, and a constant.
constexpr int32_t kOutside = INT32_MIN;

// What a call with sets works with, in memory that is the caller's.
struct KeptMemory {
  int32_t* column;     // [T] of each token: its place among kept_here(r), of a row without a set its column; kOutside
  float* logits;       // [M], where those of kept_here(r) lie as its ids do
  float* coefficient;  // [T]
  float* gradient;     // [M] as `logits`: of these in any dtype
};

// Sets memory.column.
void place_tokens(const KeptSets& kept, const RowTokens& tokens, const int32_t* token, const KeptMemory& memory);

// grad_logp of the tokens of tokens.row[i], but 0 of those outside its set; of a row without one it is returned itself.
const float* coefficients_of_row(const KeptSets& kept, const RowTokens& tokens, int64_t i, const float* grad_logp,
                                 const KeptMemory& memory);

}  // namespace grpo
