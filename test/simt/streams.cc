// Races between streams: what this work (a grid, a copy) touches must not have been touched by earlier work that it is
// not ordered after. Each work has a span of clocks; cells of global memory keep the clocks of grids, copies are kept
// here.
#include <algorithm>
#include <deque>
#include <iterator>

#include "clock.hpp"
#include "shadow.hpp"

namespace simt {

bool any_unordered = false;

namespace {

struct HostTouch {
  const char *begin, *end;
  uint64_t clock;
  bool writes;
};
constexpr size_t kMostTouches = 4096;  // older ones count as ordered
std::deque<HostTouch> touches;
std::vector<HostTouch> others;  // those that are not ordered before the work under way
std::vector<Span> unordered;   // rising and disjoint: works run one after another
uint64_t first = 0;

const HostTouch* other_touch(const char* begin, const char* end, bool writes) {
  for (const HostTouch& other : others)
    if (other.begin < end && begin < other.end && (writes || other.writes)) return &other;
  return nullptr;
}

}  // namespace

bool is_unordered(uint64_t clock) {
  const auto after = std::upper_bound(unordered.begin(), unordered.end(), clock,
                                      [](uint64_t value, const Span& span) { return value < span.first; });
  return after != unordered.begin() && clock <= std::prev(after)->last;
}

void begin_work(std::vector<Span> spans) {
  unordered = std::move(spans);
  any_unordered = the_mode.races && !unordered.empty();
  first = ++clocks.last;
  clocks.launch = clocks.last;
  others.clear();
  if (any_unordered)
    for (const HostTouch& touch : touches)
      if (is_unordered(touch.clock)) others.push_back(touch);
}

Span end_work() {
  any_unordered = false;
  return {first, clocks.last};
}

std::string touch(const void* pointer, size_t bytes, bool writes) {
  const char* begin = static_cast<const char*>(pointer);
  std::string result;
  if (any_unordered) {
    result = unordered_cell(begin, bytes, writes);
    if (const HostTouch* other = other_touch(begin, begin + bytes, writes); result.empty() && other != nullptr)
      result = std::string("what a copy, a fill, an allocation or a release in another stream ") +
               (other->writes ? "changes" : "reads");
  }
  touches.push_back({begin, begin + bytes, first, writes});
  if (touches.size() > kMostTouches) touches.pop_front();
  return result;
}

void check_touches(Thread* thread, const char* at, size_t bytes, Access kind, const void* where) {
  if (others.empty()) return;
  const HostTouch* other = other_touch(at, at + bytes, kind != Access::kRead);
  if (other == nullptr) return;
  hooked = nullptr;
  fault("race between streams",
        SIMT_TEXT("%s %s global memory at %s, not ordered after a copy, a fill, an allocation or a release in another "
                  "stream, which %s it",
                  who(thread).c_str(), kind == Access::kRead ? "reads" : "changes", place(where).c_str(),
                  other->writes ? "changes" : "reads"));
}

void forget_touches(const char* begin, const char* end) {
  std::erase_if(touches, [&](const HostTouch& touch) { return touch.begin < end && begin < touch.end; });
}

}  // namespace simt
