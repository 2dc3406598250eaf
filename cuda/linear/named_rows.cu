// Which rows of the hidden states unmasked tokens name: the tokens of every row, as for rows of logits, and the list of
// those rows that have any.
#include "blocks/flags.cuh"
#include "linear/chunk.cuh"

namespace grpo::cuda {
namespace {

struct Named {
  const int32_t* start;  // [R+1]
  int32_t skip = 0;

  __device__ __forceinline__ uint32_t bits(int64_t first, int64_t R) const {
    uint32_t named = 0;
    for (int i = 0; i < kFlags && first + i < R; ++i)
      if (start[first + i + 1] > start[first + i]) named |= 1u << i;
    return named;
  }
};

}  // namespace

NamedRows named_rows(const TokenRows& tokens, Launch& on) {
  const RowTokens lists = row_token_lists(tokens, on);
  if (lists.row != nullptr) return {lists.start, lists.t, lists.row, lists.count, true};
  int32_t* row = on.scratch<int32_t>(tokens.R);
  const uint32_t* count = list_flags(Named{lists.start}, nullptr, row, 0, tokens.R, tokens.R, on);
  return {lists.start, lists.t, row, count, false};
}

}  // namespace grpo::cuda
