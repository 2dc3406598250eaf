// Lists of tiles, and the scratch memory of the threads that work on them.
#pragma once

#include <cstdint>

#include "attention/tiles.h"
#include "parallel/parallel.h"

namespace grpo {

// The tiles that each(f) calls f with.
class TileList {
 public:
  template <class Each>
  explicit TileList(Each&& each) : count(count_of(each)), tiles_(count) {
    TokenTile* next = tiles_.data();
    each([&](const TokenTile& tile) { *next++ = tile; });
  }

  const int64_t count;
  const TokenTile* begin() { return tiles_.data(); }
  const TokenTile* end() { return begin() + count; }
  const TokenTile& operator[](int64_t i) { return tiles_[i]; }

 private:
  template <class Each>
  static int64_t count_of(Each& each) {
    int64_t n = 0;
    each([&](const TokenTile&) { ++n; });
    return n;
  }

  Scratch<TokenTile> tiles_;
};

// Cuts a worker's slice of scratch into arrays; with null it only counts the floats.
struct Carver {
  float* base;
  int64_t used = 0;

  float* take(int64_t n) {
    float* slice = base == nullptr ? nullptr : base + used;
    used += (n + 15) / 16 * 16;
    return slice;
  }
};

// Calls task(i, workspace) for i < count on all threads, with a workspace for each thread. Workspace::cut(carver,
// sizes...) takes its arrays from a carver.
template <class Workspace, class F, class... Sizes>
void for_each_task(int64_t count, F&& task, const Sizes&... sizes) {
  Carver counter{nullptr};
  Workspace::cut(counter, sizes...);
  Scratch<float> scratch(counter.used * thread_count());
  parallel_for(count, 1, [&](int64_t begin, int64_t end, int worker) {
    Carver carver{scratch.data() + worker * counter.used};
    const Workspace work = Workspace::cut(carver, sizes...);
    for (int64_t i = begin; i < end; ++i) task(i, work);
  });
}

}  // namespace grpo
