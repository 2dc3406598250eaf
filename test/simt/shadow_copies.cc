// What asynchronous copies do to the detector's cells.
#include "cells.hpp"

namespace simt {

void shadow_mark_write(const void* shared, size_t bytes, uint32_t number, uint64_t clock, const void* where) {
  if (!the_mode.races) return;
  for_shared(shared, bytes, true, [&](SharedCell& cell, uint64_t) {
    cell.write = epoch(number, clock);
    cell.write_place = short_place(where);
    for (uint64_t& read : cell.read) read = 0;
  });
}

void shadow_mark_global(const void* global, size_t bytes, uint32_t number, uint64_t clock, const void* where) {
  const char* at = static_cast<const char*>(global);
  Allocation* in = the_mode.races ? allocation_at(at) : nullptr;
  if (in == nullptr) return;
  for_global(in, static_cast<uint64_t>(at - in->begin), bytes, true, [&](GlobalCell& cell, uint64_t) {
    cell.write = epoch(number, clock);
    cell.write_place = short_place(where);
    cell.read[0] = 0;
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

}  // namespace simt
