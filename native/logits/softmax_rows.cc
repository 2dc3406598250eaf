#include "logits/softmax_rows.h"

#include "logits/sort_by_key.h"

namespace grpo {

RowTokens row_tokens(const int32_t* row, const uint8_t* mask, int32_t* scratch, int64_t T, int64_t R) {
  KeyedPlaces pairs{scratch, scratch + T}, other{pairs.place + T + 1, pairs.place + 2 * T + 1};
  int64_t count = 0;
  bool sorted = true;
  for (int64_t t = 0; t < T; ++t) {
    if (mask != nullptr && read_once(mask + t) == 0) continue;
    const int32_t r = row == nullptr ? static_cast<int32_t>(t) : read_once(row + t);
    if (r < 0 || r >= R) continue;  // written by another thread since it was checked
    sorted = sorted && (count == 0 || pairs.key[count - 1] <= r);
    pairs.key[count] = r, pairs.place[count++] = static_cast<int32_t>(t);
  }
  // Tokens of one row stay in the order that they came.
  if (!sorted) sort_by_key(pairs, other, count);

  int32_t *named = other.key, *start = other.place;
  int64_t rows = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (i > 0 && pairs.key[i] == pairs.key[i - 1]) continue;
    named[rows] = pairs.key[i];
    start[rows++] = static_cast<int32_t>(i);
  }
  start[rows] = static_cast<int32_t>(count);
  return {named, start, pairs.place, rows};
}

}  // namespace grpo
