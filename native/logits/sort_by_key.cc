#include "logits/sort_by_key.h"

#include <algorithm>
#include <utility>

namespace grpo {

// A radix sort by the four bytes of a key, of which those that are the same everywhere are passed over.
void sort_by_key(KeyedPlaces& pairs, KeyedPlaces& other, int64_t count) {
  for (int shift = 0; shift < 32; shift += 8) {
    const auto digit = [&](int64_t i) { return (pairs.key[i] >> shift) & 255; };
    int64_t place[257] = {};
    for (int64_t i = 0; i < count; ++i) ++place[digit(i) + 1];
    if (std::find(place + 1, place + 257, count) != place + 257) continue;
    for (int d = 0; d < 256; ++d) place[d + 1] += place[d];
    for (int64_t i = 0; i < count; ++i) {
      const int64_t to = place[digit(i)]++;
      other.key[to] = pairs.key[i], other.place[to] = pairs.place[i];
    }
    std::swap(pairs, other);
  }
}

}  // namespace grpo
