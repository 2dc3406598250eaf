#include "logits/softmax_rows.h"

#include <algorithm>
#include <utility>

namespace grpo {
namespace {

struct Pairs {
  int32_t* row;  // [T]
  int32_t* t;    // [T + 1]
};

// Sorts by row, tokens of one row in the order that they came: a radix sort by the four bytes of a row, of which those
// that are the same everywhere are passed over. Which of the two holds the result, and which is free, is changed.
void sort_by_row(Pairs& pairs, Pairs& other, int64_t count) {
  for (int shift = 0; shift < 32; shift += 8) {
    const auto digit = [&](int64_t i) { return (pairs.row[i] >> shift) & 255; };
    int64_t place[257] = {};
    for (int64_t i = 0; i < count; ++i) ++place[digit(i) + 1];
    if (std::find(place + 1, place + 257, count) != place + 257) continue;
    for (int d = 0; d < 256; ++d) place[d + 1] += place[d];
    for (int64_t i = 0; i < count; ++i) {
      const int64_t to = place[digit(i)]++;
      other.row[to] = pairs.row[i], other.t[to] = pairs.t[i];
    }
    std::swap(pairs, other);
  }
}

}  // namespace

RowTokens row_tokens(const int32_t* row, const uint8_t* mask, int32_t* scratch, int64_t T, int64_t R) {
  Pairs pairs{scratch, scratch + T}, other{pairs.t + T + 1, pairs.t + 2 * T + 1};
  int64_t count = 0;
  bool sorted = true;
  for (int64_t t = 0; t < T; ++t) {
    if (mask != nullptr && read_once(mask + t) == 0) continue;
    const int32_t r = row == nullptr ? static_cast<int32_t>(t) : read_once(row + t);
    if (r < 0 || r >= R) continue;  // written by another thread since it was checked
    sorted = sorted && (count == 0 || pairs.row[count - 1] <= r);
    pairs.row[count] = r, pairs.t[count++] = static_cast<int32_t>(t);
  }
  if (!sorted) sort_by_row(pairs, other, count);

  int32_t *named = other.row, *start = other.t;
  int64_t rows = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (i > 0 && pairs.row[i] == pairs.row[i - 1]) continue;
    named[rows] = pairs.row[i];
    start[rows++] = static_cast<int32_t>(i);
  }
  start[rows] = static_cast<int32_t>(count);
  return {named, start, pairs.t, rows};
}

}  // namespace grpo
