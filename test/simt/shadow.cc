// The race detector's cells. An access is right if the thread knows (clock.hpp) of the last write, and a write also of
// the reads since. A cell stands for 4 bytes; a word that is touched in part is split into 4 cells of one byte.
#include "shadow.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "clock.hpp"

namespace simt {

// Epochs: clock << 16 | split << 15 | atomic << 14 | thread number in the cluster.
template <int R>
struct Cell {
  uint64_t write;
  uint64_t read[R];
  uint32_t write_place;
  uint32_t read_place[R];
};
using SharedCell = Cell<3>;

namespace {

constexpr uint64_t kNumber = (1u << 14) - 1, kAtomic = 1u << 14, kSplit = 1u << 15;

uint64_t epoch(uint32_t number, uint64_t clock) { return clock << 16 | number; }
inline uint64_t clock_in(uint64_t epoch) { return epoch >> 16; }
inline uint32_t number_in(uint64_t epoch) { return static_cast<uint32_t>(epoch & kNumber); }

uint32_t short_place(const void* where) {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(where) - reinterpret_cast<uintptr_t>(&mode));
}
const void* long_place(uint32_t place) {
  return reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(&mode) +
                                       static_cast<uintptr_t>(static_cast<int64_t>(static_cast<int32_t>(place))));
}

SharedCell* shared_words = nullptr;  // [slots][kSlotBytes / 4]
SharedCell* shared_bytes = nullptr;  // [slots][kSlotBytes]

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
    if (!Global || clock <= clocks.launch) return true;
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

// visit(cell, offset of the first of its bytes) for all cells of `bytes` bytes at `offset`; `bytes_of` gives the byte
// cells, which exist only once a word is split. `whole`: the visit leaves the same in all bytes, so that a word that is
// covered in full becomes one cell again.
template <bool Global, int R, class Bytes, class Visit>
inline void for_cells(Cell<R>* words, Bytes bytes_of, uint64_t offset, size_t bytes, bool whole, Visit visit) {
  uint64_t at = offset;
  const uint64_t end = offset + bytes;
  while (at < end) {
    const uint64_t word = at / 4, next = std::min(end, word * 4 + 4);
    Cell<R>& cell = words[word];
    const bool split = (cell.write & kSplit) != 0 && (Global || clock_in(cell.write) > clocks.birth);
    if (next - at == 4 && !split) {
      visit(cell, at);
    } else {
      Cell<R>* parts = bytes_of() + word * 4;
      if (!split) {
        for (int i = 0; i < 4; ++i) parts[i] = cell;
        cell.write = epoch(0, clocks.birth + 1) | kSplit;
      }
      for (uint64_t i = at; i < next; ++i) visit(parts[i % 4], i);
      if (next - at == 4 && whole) cell = parts[3];
    }
    at = next;
  }
}

template <class Visit>
inline void for_shared(uint32_t rank, uint32_t offset, size_t bytes, bool whole, Visit visit) {
  if (shared_words == nullptr) {
    shared_words = static_cast<SharedCell*>(zeros(kMostCluster * kSlotBytes / 4 * sizeof(SharedCell)));
    shared_bytes = static_cast<SharedCell*>(zeros(kMostCluster * kSlotBytes * sizeof(SharedCell)));
  }
  for_cells<false>(
      shared_words + rank * (kSlotBytes / 4), [&] { return shared_bytes + rank * kSlotBytes; }, offset, bytes, whole,
      visit);
}

template <class Visit>
void for_shared(const void* shared, size_t bytes, bool whole, Visit visit) {
  const size_t at = static_cast<size_t>(static_cast<const char*>(shared) - arena);
  for_shared(static_cast<uint32_t>(at / kSlotBytes), static_cast<uint32_t>(at % kSlotBytes), bytes, whole, visit);
}

size_t words_in(const Allocation* in) { return static_cast<size_t>(in->end - in->begin + 3) / 4; }

GlobalCell* byte_cells(Allocation* in) {
  if (in->bytes == nullptr) in->bytes = static_cast<GlobalCell*>(zeros(words_in(in) * 4 * sizeof(GlobalCell)));
  return in->bytes;
}

template <class Visit>
inline void for_global(Allocation* in, uint64_t offset, size_t bytes, bool whole, Visit visit) {
  if (in->words == nullptr) in->words = static_cast<GlobalCell*>(zeros(words_in(in) * sizeof(GlobalCell)));
  for_cells<true>(in->words, [&] { return byte_cells(in); }, offset, bytes, whole, visit);
}

}  // namespace

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

void drop_shadow(Allocation* of) {
  if (of->words != nullptr) munmap(of->words, words_in(of) * sizeof(GlobalCell));
  if (of->bytes != nullptr) munmap(of->bytes, words_in(of) * 4 * sizeof(GlobalCell));
}

// ---- asynchronous copies --------------------------------------------------------------------------------------------

void shadow_mark_write(const void* shared, size_t bytes, uint32_t number, uint64_t clock, const void* where) {
  if (!the_mode.races) return;
  for_shared(shared, bytes, true, [&](SharedCell& cell, uint64_t) {
    cell.write = epoch(number, clock);
    cell.write_place = short_place(where);
    for (uint64_t& read : cell.read) read = 0;
  });
}

void shadow_mark_read(const void* shared, size_t bytes, const void* where) {
  if (!the_mode.races) return;
  for_shared(shared, bytes, false, [&](SharedCell& cell, uint64_t) {
    cell.read[0] = epoch(kInFlight, clocks.birth + 1);
    cell.read_place[0] = short_place(where);
  });
}

void shadow_end_read(Thread* thread, const void* shared, size_t bytes) {
  if (!the_mode.races) return;
  for_shared(shared, bytes, false, [&](SharedCell& cell, uint64_t) {
    for (uint64_t& read : cell.read)
      if (number_in(read) == kInFlight) read = epoch(thread->number, thread->own);
  });
}

void shadow_check_proxy(Thread* thread, const void* shared, size_t bytes, const void* where) {
  if (!the_mode.races) return;
  for_shared(shared, bytes, false, [&](SharedCell& cell, uint64_t at) {
    const uint32_t number = number_in(cell.write);
    if (number >= running.threads || clock_in(cell.write) <= threads[number].fenced) return;
    const std::string writer = who(&threads[number]), there = place(long_place(cell.write_place));
    fault("no proxy fence", SIMT_TEXT("%s starts a copy of byte %llu of shared memory at %s, and %s, who wrote it at "
                                      "%s, has not called proxy_fence since",
                                      who(thread).c_str(), static_cast<unsigned long long>(at - kSharedStart),
                                      place(where).c_str(), writer.c_str(), there.c_str()));
  });
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
