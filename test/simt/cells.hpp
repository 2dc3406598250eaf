// The cells behind shadow.hpp, for its own files: a cell stands for 4 bytes; a word that is touched in part is split into
// 4 cells of one byte.
#pragma once

#include <algorithm>

#include "clock.hpp"
#include "shadow.hpp"

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

constexpr uint64_t kNumber = (1u << 14) - 1, kAtomic = 1u << 14, kSplit = 1u << 15;

inline uint64_t epoch(uint32_t number, uint64_t clock) { return clock << 16 | number; }
inline uint64_t clock_in(uint64_t epoch) { return epoch >> 16; }
inline uint32_t number_in(uint64_t epoch) { return static_cast<uint32_t>(epoch & kNumber); }

inline uint32_t short_place(const void* where) {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(where) - reinterpret_cast<uintptr_t>(&mode));
}
inline const void* long_place(uint32_t place) {
  return reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(&mode) +
                                       static_cast<uintptr_t>(static_cast<int64_t>(static_cast<int32_t>(place))));
}

extern SharedCell* shared_words;  // [slots][kSlotBytes / 4]
extern SharedCell* shared_bytes;  // [slots][kSlotBytes]

void make_shared_cells();

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
  if (shared_words == nullptr) make_shared_cells();
  for_cells<false>(
      shared_words + rank * (kSlotBytes / 4), [&] { return shared_bytes + rank * kSlotBytes; }, offset, bytes, whole,
      visit);
}

template <class Visit>
inline void for_shared(const void* shared, size_t bytes, bool whole, Visit visit) {
  const size_t at = static_cast<size_t>(static_cast<const char*>(shared) - arena);
  for_shared(static_cast<uint32_t>(at / kSlotBytes), static_cast<uint32_t>(at % kSlotBytes), bytes, whole, visit);
}

inline size_t words_in(const Allocation* in) { return static_cast<size_t>(in->end - in->begin + 3) / 4; }

inline GlobalCell* byte_cells(Allocation* in) {
  if (in->bytes == nullptr) in->bytes = static_cast<GlobalCell*>(zeros(words_in(in) * 4 * sizeof(GlobalCell)));
  return in->bytes;
}

template <class Visit>
inline void for_global(Allocation* in, uint64_t offset, size_t bytes, bool whole, Visit visit) {
  if (in->words == nullptr) in->words = static_cast<GlobalCell*>(zeros(words_in(in) * sizeof(GlobalCell)));
  for_cells<true>(in->words, [&] { return byte_cells(in); }, offset, bytes, whole, visit);
}

}  // namespace simt
