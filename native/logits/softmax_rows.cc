#include "logits/softmax_rows.h"

#include <algorithm>

namespace grpo {

RowTokens row_tokens(const int32_t* row, const uint8_t* mask, int32_t* scratch, int64_t T, int64_t R) {
  int32_t *start = scratch, *named = start + R + 1, *tokens = named + R;
  const auto row_of = [&](int64_t t) { return row == nullptr ? static_cast<int32_t>(t) : row[t]; };
  const auto counts = [&](int64_t t) { return mask == nullptr || mask[t] != 0; };

  // A counting sort: start[r] is the end of row r until its tokens are filled in from behind.
  std::fill(start, start + R + 1, 0);
  for (int64_t t = 0; t < T; ++t)
    if (counts(t)) ++start[row_of(t)];
  for (int64_t r = 1; r <= R; ++r) start[r] += start[r - 1];
  for (int64_t t = T; t-- > 0;)
    if (counts(t)) tokens[--start[row_of(t)]] = static_cast<int32_t>(t);

  int64_t count = 0;
  for (int64_t r = 0; r < R; ++r) {
    if (start[r] == start[r + 1]) continue;
    named[count] = static_cast<int32_t>(r);
    start[count++] = start[r];
  }
  start[count] = start[R];
  return {named, start, tokens, count};
}

}  // namespace grpo
