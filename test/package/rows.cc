// What the C interface does not show: rows and masks that another thread has changed since they were checked lead out of
// no bound. Compiled with native/logits/softmax_rows.cc alone by test/package/library.mjs and by c_interface.test.ts.
#include <cstdio>
#include <vector>

#include "logits/softmax_rows.h"

namespace {

int failures = 0;

void expect(const std::vector<int32_t>& value, const std::vector<int32_t>& expected, const char* what) {
  if (value == expected) return;
  ++failures;
  std::printf("failed: %s\n", what);
}

// The rows that tokens name, then where each begins, then the tokens.
std::vector<int32_t> listed(std::vector<int32_t> row, const std::vector<uint8_t>& mask, int64_t R) {
  const auto T = static_cast<int64_t>(row.size());
  std::vector<int32_t> scratch(grpo::row_tokens_scratch(T));
  const grpo::RowTokens tokens = grpo::row_tokens(row.data(), mask.empty() ? nullptr : mask.data(), scratch.data(), T, R);
  std::vector<int32_t> all(tokens.row, tokens.row + tokens.count);
  all.insert(all.end(), tokens.start, tokens.start + tokens.count + 1);
  all.insert(all.end(), tokens.t, tokens.t + tokens.start[tokens.count]);
  return all;
}

}  // namespace

int main() {
  constexpr int32_t kMost = 2147483647;
  expect(listed({2, 0, 2}, {}, 3), {0, 2, 0, 1, 3, 1, 0, 2}, "rows in bounds");
  expect(listed({2, 3, 0, -1, 2}, {}, 3), {0, 2, 0, 1, 3, 2, 0, 4}, "a row after the last, and one before the first");
  expect(listed({kMost, 1, -kMost - 1, 1 << 30, 1}, {}, 2), {1, 0, 2, 1, 4}, "rows far away");
  expect(listed({5, 5}, {}, 5), {0}, "no row in bounds");
  expect(listed({5, 1}, {0, 1}, 2), {1, 0, 1, 1}, "a row that is masked");
  std::printf("%s\n", failures == 0 ? "rows stay in bounds" : "rows leave their bounds");
  return failures;
}
