// Hand-over between the blocks of a grid: release_add and acquire_load. Clusters run one after another, so what an
// earlier one released is a list of what its threads knew at that time.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "clock.hpp"
#include "device.hpp"
#include "shadow.hpp"

namespace simt {

namespace {

struct Release {  // what a thread knew of its cluster when it released
  uint64_t birth;   // all clocks of that cluster are above
  uint64_t* known;  // [threads of a cluster]; clocks of later clusters are above
};
enum class ReleaseIndex : uint32_t {};  // a type of our own: a vector of integers may be one that host code instruments
struct ReleaseList {
  const void* address;
  std::vector<ReleaseIndex> releases;  // into `releases`
};
struct Acquisition {
  uint32_t number;
  const void* address;
  uint64_t clock;  // the event that acquired
  std::vector<ReleaseIndex> releases;
};
std::vector<Release> releases;
std::vector<ReleaseList> release_lists;
std::vector<Acquisition> acquisitions;  // of the running cluster

}  // namespace

// Whether the thread was handed over event `clock` of thread `number` of an earlier cluster of this grid.
bool handed_over(const Thread* thread, uint32_t number, uint64_t clock) {
  if (number >= running.threads) return false;
  for (const Acquisition& acquisition : acquisitions) {
    if (!knows(thread, acquisition.number, acquisition.clock)) continue;
    for (const ReleaseIndex index : acquisition.releases) {
      const Release& release = releases[static_cast<uint32_t>(index)];
      if (clock > release.birth && clock <= release.known[number]) return true;
    }
  }
  return false;
}

void handover_launch() {
  for (const Release& release : releases) std::free(release.known);
  releases.clear();
  release_lists.clear();
  acquisitions.clear();
}

void handover_start() { acquisitions.clear(); }

void handover_release(Thread* thread, const void* address) {
  if (!the_mode.races) return;
  ReleaseList* list = nullptr;
  for (ReleaseList& known : release_lists)
    if (known.address == address) list = &known;
  if (list == nullptr) {
    release_lists.push_back({address, {}});
    list = &release_lists.back();
  }
  // What it acquired itself passes on.
  for (const Acquisition& acquisition : acquisitions)
    if (knows(thread, acquisition.number, acquisition.clock))
      for (const ReleaseIndex index : acquisition.releases)
        if (std::find(list->releases.begin(), list->releases.end(), index) == list->releases.end())
          list->releases.push_back(index);
  const size_t bytes = running.threads * sizeof(uint64_t);
  auto* known = static_cast<uint64_t*>(std::malloc(bytes));
  memcpy(known, thread->base->clock, bytes);
  known[thread->number] = thread->own++;
  list->releases.push_back(static_cast<ReleaseIndex>(releases.size()));
  releases.push_back({clocks.birth, known});
}

void handover_acquire(Thread* thread, const void* address) {
  if (!the_mode.races) return;
  for (const ReleaseList& list : release_lists) {
    if (list.address != address) continue;
    // Who asks again learns nothing new.
    for (const Acquisition& known : acquisitions)
      if (known.number == thread->number && known.address == address && known.releases.size() == list.releases.size())
        return;
    acquisitions.push_back({thread->number, address, thread->own, list.releases});
  }
  ++thread->own;
}

// ---- the functions of ptx.hpp ---------------------------------------------------------------------------------------

namespace {

uint32_t hand_over(uint32_t* address, uint32_t value, bool acquires, bool releases, const char* what,
                   const void* where) {
  must_be_global(address, what, where);
  on_atomic(address, sizeof(uint32_t), where);
  if (releases) {
    progress();
    handover_release(current, address);
  }
  const uint32_t before = *address;
  *address = before + value;
  if (acquires) handover_acquire(current, address);
  return before;
}

}  // namespace

uint32_t acquire_load(const uint32_t* address) {
  const void* where = SIMT_CALLER;
  yield_current("acquire_load", where);
  return hand_over(const_cast<uint32_t*>(address), 0, true, false, "acquire_load", where);
}
uint32_t release_add(uint32_t* address, uint32_t value) {
  return hand_over(address, value, false, true, "release_add", SIMT_CALLER);
}
uint32_t acquire_release_add(uint32_t* address, uint32_t value) {
  return hand_over(address, value, true, true, "acquire_release_add", SIMT_CALLER);
}

}  // namespace simt
