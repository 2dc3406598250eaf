// The race detector. An access is right if the thread knows (clock.hpp) of the last write, and a write also of the reads
// since.
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cells.hpp"

namespace simt {

SharedCell* shared_words = nullptr;
SharedCell* shared_bytes = nullptr;

namespace {

// ---- reports --------------------------------------------------------------------------------------------------------

// Where an access lies, for people.
struct Spot {
  Thread* thread;
  Access kind;
  const void* where;
  const char* memory;  // "shared", "global"
  uint64_t offset;     // in the kernel's shared memory or in the allocation
  uint32_t rank;
};

const char* verb(Access kind) {
  return kind == Access::kRead ? "reads" : kind == Access::kWrite ? "writes" : "changes";
}

std::string here(const Spot& spot) {
  std::string result = SIMT_TEXT("%s %s byte %llu of %s memory", who(spot.thread).c_str(), verb(spot.kind),
                                 static_cast<unsigned long long>(spot.offset), spot.memory);
  if (spot.memory[0] == 's' && spot.rank != spot.thread->block->rank) result += SIMT_TEXT(" of rank %u", spot.rank);
  return result + " at " + place(spot.where);
}

[[noreturn]] __attribute__((cold, noinline)) void uninitialised(const Spot& spot) {
  hooked = nullptr;
  fault("uninitialised read", here(spot) + ", which no one has written");
}

[[noreturn]] __attribute__((cold, noinline)) void race(const Spot& spot, uint64_t other, uint32_t other_place,
                                                       bool other_wrote) {
  hooked = nullptr;
  const uint32_t number = number_in(other);
  const std::string there = place(long_place(other_place));
  if (spot.memory[0] == 'g' && clock_in(other) <= clocks.launch)
    fault("race between streams",
          here(spot) + SIMT_TEXT(", not ordered after the %s by a kernel in another stream at %s",
                                 other_wrote ? "write" : "read", there.c_str()));
  if (number >= running.threads)
    fault("asynchronous copy not waited for",
          here(spot) + SIMT_TEXT(", which the copy issued at %s %s", there.c_str(), other_wrote ? "writes" : "reads"));
  const bool elsewhere = clock_in(other) <= clocks.birth;
  const std::string by =
      elsewhere ? SIMT_TEXT("thread %u of another block", number % running.grid.threads) : who(&threads[number]);
  fault(elsewhere ? "race between blocks" : "race",
        here(spot) + SIMT_TEXT(", not ordered after the %s by %s at %s", other_wrote ? "write" : "read", by.c_str(),
                               there.c_str()));
}

// ---- cells ----------------------------------------------------------------------------------------------------------

template <bool Global>
inline bool ordered(const Thread* thread, uint64_t other) {
  const uint64_t clock = clock_in(other);
  if (clock <= clocks.birth) {
    if (!Global) return true;
    if (clock <= clocks.launch) return !any_unordered || !is_unordered(clock);
    return handed_over(thread, number_in(other), clock);
  }
  const uint32_t number = number_in(other);
  if (number == thread->number) return true;
  if (number == kInFlight) return false;
  return clock <= thread->base->clock[number];
}

template <int R>
inline void record_read(Thread* thread, Cell<R>& cell, uint64_t now, const void* where) {
  int slot = -1;
  for (int i = 0; i < R; ++i) {
    const uint64_t read = cell.read[i];
    if (read == now) return;
    if (number_in(read) == thread->number) slot = i;
  }
  if constexpr (R == 1) {
    // The only slot keeps a read of another block: the next one to be missed.
    const uint64_t clock = clock_in(cell.read[0]);
    if (clock > clocks.launch && clock <= clocks.birth && !ordered<true>(thread, cell.read[0])) return;
    slot = 0;
  }
  if (slot < 0)
    for (int i = 0; i < R && slot < 0; ++i)
      if (ordered<R == 1>(thread, cell.read[i])) slot = i;
  if (slot < 0)  // readers of several warps are kept: a barrier of one warp orders no others
    for (int i = 0; i < R && slot < 0; ++i) {
      const uint32_t number = number_in(cell.read[i]);
      if (number < running.threads && threads[number].warp == thread->warp) slot = i;
    }
  if (slot < 0) {
    slot = static_cast<int>(random_bits() % R);
    if (number_in(cell.read[slot]) == kInFlight) slot = (slot + 1) % R;
    if (number_in(cell.read[slot]) == kInFlight) return;
  }
  cell.read[slot] = now;
  cell.read_place[slot] = short_place(where);
}

template <bool Global, int R>
inline void touch(Cell<R>& cell, const Spot& spot, bool initialised) {
  Thread* thread = spot.thread;
  const uint64_t write = cell.write, now = epoch(thread->number, thread->own);
  if (spot.kind != Access::kWrite && !initialised && (Global ? write == 0 : clock_in(write) <= clocks.birth))
    uninitialised(spot);
  if (!(spot.kind == Access::kAtomic && (write & kAtomic) != 0) && !ordered<Global>(thread, write))
    race(spot, write, cell.write_place, true);
  if (spot.kind == Access::kRead) return record_read(thread, cell, now, spot.where);
  for (int i = 0; i < R; ++i) {
    if (!ordered<Global>(thread, cell.read[i])) race(spot, cell.read[i], cell.read_place[i], false);
    cell.read[i] = 0;
  }
  cell.write = spot.kind == Access::kAtomic ? now | kAtomic : now;
  cell.write_place = short_place(spot.where);
}

}  // namespace

void make_shared_cells() {
  shared_words = static_cast<SharedCell*>(zeros(kMostCluster * kSlotBytes / 4 * sizeof(SharedCell)));
  shared_bytes = static_cast<SharedCell*>(zeros(kMostCluster * kSlotBytes * sizeof(SharedCell)));
}

void* zeros(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    fputs("simt: no memory for the detector\n", stderr);
    abort();
  }
  return memory;
}

void shadow_shared(Thread* thread, uint32_t rank, uint32_t offset, size_t bytes, Access kind, const void* where) {
  if (rank != thread->block->rank) remote_access(thread, rank, where);
  for_shared(rank, offset, bytes, kind == Access::kWrite, [&](SharedCell& cell, uint64_t at) {
    touch<false>(cell, {thread, kind, where, "shared", at - kSharedStart, rank}, false);
  });
}

void shadow_global(Thread* thread, Allocation* in, const char* at, size_t bytes, Access kind, const void* where) {
  if (any_unordered) check_touches(thread, at, bytes, kind, where);
  for_global(in, static_cast<uint64_t>(at - in->begin), bytes, kind == Access::kWrite,
             [&](GlobalCell& cell, uint64_t offset) {
               touch<true>(cell, {thread, kind, where, "global", offset, 0}, in->host_wrote_all);
             });
}

void shadow_host_wrote(Allocation* in, char* at, size_t bytes) {
  bytes = std::min(bytes, static_cast<size_t>(in->end - at));
  if (in->host_wrote_all) return;
  if (bytes == static_cast<size_t>(in->end - in->begin)) {
    in->host_wrote_all = true;
    return;
  }
  for_global(in, static_cast<uint64_t>(at - in->begin), bytes, true, [](GlobalCell& cell, uint64_t) {
    if (cell.write == 0) cell.write = epoch(0, 1);  // older than any grid
  });
}

// visit(offset, bytes) for the parts of [offset, offset + bytes) whose cells anybody has touched: of a large allocation
// these are few.
template <class Visit>
void for_touched(const Allocation* in, uint64_t offset, size_t bytes, Visit visit) {
  constexpr uint64_t kPage = 4096, kPages = 1 << 16, kCell = sizeof(GlobalCell);
  const uint64_t end = offset + bytes, last = ((end + 3) / 4 * kCell + kPage - 1) / kPage;
  char* const cells = reinterpret_cast<char*>(in->words);
  std::vector<unsigned char> resident(kPages);
  for (uint64_t first = offset / 4 * kCell / kPage; first < last; first += kPages) {
    const uint64_t pages = std::min(kPages, last - first);
    const bool known = mincore(cells + first * kPage, pages * kPage, resident.data()) == 0;
    for (uint64_t page = first; page < first + pages; ++page) {
      if (known && (resident[page - first] & 1) == 0) continue;
      const uint64_t from = std::max(offset, page * kPage / kCell * 4);
      const uint64_t to = std::min(end, ((page + 1) * kPage + kCell - 1) / kCell * 4);
      if (from < to) visit(from, to - from);
    }
  }
}

std::string unordered_cell(const char* begin, size_t bytes, bool writes) {
  Allocation* in = allocation_at(begin);
  std::string result;
  if (in == nullptr || in->words == nullptr) return result;
  const auto seen = [&](uint64_t other, uint32_t other_place, const char* did) {
    if (result.empty() && is_unordered(clock_in(other)))
      result = SIMT_TEXT("what a kernel in another stream %s at %s", did, place(long_place(other_place)).c_str());
  };
  for_touched(in, static_cast<uint64_t>(begin - in->begin), bytes, [&](uint64_t offset, size_t part) {
    for_global(in, offset, part, false, [&](GlobalCell& cell, uint64_t) {
      seen(cell.write, cell.write_place, "writes");
      if (writes) seen(cell.read[0], cell.read_place[0], "reads");
    });
  });
  return result;
}

void drop_shadow(Allocation* of) {
  if (of->words != nullptr) munmap(of->words, words_in(of) * sizeof(GlobalCell));
  if (of->bytes != nullptr) munmap(of->bytes, words_in(of) * 4 * sizeof(GlobalCell));
}

void async_store(Thread* thread, const void* shared, size_t bytes, const void* where) {
  must_be_shared(thread, shared, bytes, Access::kWrite, where);
  if (!the_mode.races) return;
  const auto rank = static_cast<uint32_t>(static_cast<size_t>(static_cast<const char*>(shared) - arena) / kSlotBytes);
  if (rank != thread->block->rank) remote_started(thread, rank, where);
  for_shared(shared, bytes, true, [&](SharedCell& cell, uint64_t at) {
    touch<false>(cell, {thread, Access::kWrite, where, "shared", at - kSharedStart, rank}, false);
  });
}

}  // namespace simt
