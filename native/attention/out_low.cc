#include "attention/out_low.h"

#include <atomic>

#include "attention/rows.h"
#include "parallel/parallel.h"

namespace grpo {

int64_t first_foreign_low(const void* out, const void* low, Float type, int64_t n) {
  constexpr int64_t kPiece = 1024;
  // Half a unit in the last place is at most half |out|; below the normal numbers a unit is `least`.
  const float half = type == Float::kBf16 ? 0x1p-8f : 0x1p-11f, least = type == Float::kBf16 ? 0x1p-133f : 0x1p-24f;
  Scratch<float> rows(thread_count() * 2 * kPiece);
  std::atomic<int64_t> first{n};
  parallel_for((n + kPiece - 1) / kPiece, 16, [&](int64_t begin, int64_t end, int worker) {
    float *const x = rows.data() + worker * 2 * kPiece, *const y = x + kPiece;
    for (int64_t at = begin * kPiece; at < std::min(end * kPiece, n); at += kPiece) {
      const int64_t count = std::min(kPiece, n - at);
      gather(out, type, at, count, 1, count, x);
      gather(low, type, at, count, 1, count, y);
      const auto foreign = [&](int64_t i) {
        return std::isfinite(x[i]) & !(std::fabs(y[i]) <= std::fabs(x[i]) * half + least);
      };
      bool any = false;
      for (int64_t i = 0; i < count; ++i) any |= foreign(i);
      if (!any) continue;
      int64_t i = 0;
      while (!foreign(i)) ++i;
      int64_t seen = first.load();
      while (at + i < seen && !first.compare_exchange_weak(seen, at + i)) {}
      return;
    }
  });
  return first == n ? -1 : first.load();
}

}  // namespace grpo
