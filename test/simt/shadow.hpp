// What the detector remembers of each word of shared and global memory: who wrote it last and read it since, and where.
#pragma once

#include "memory.hpp"

namespace simt {

template <int R>
struct Cell;
using GlobalCell = Cell<1>;

struct Allocation {
  char* begin;
  char* end;
  bool host_wrote_all;
  GlobalCell* words;  // null until a kernel touches it
  GlobalCell* bytes;  // of words that were touched in part; null until there is one
};

void shadow_shared(Thread* thread, uint32_t rank, uint32_t offset, size_t bytes, Access kind, const void* where);
void shadow_global(Thread* thread, Allocation* in, const char* at, size_t bytes, Access kind, const void* where);
void shadow_host_wrote(Allocation* in, char* at, size_t bytes);
void drop_shadow(Allocation* of);
void* zeros(size_t bytes);  // pages that exist once they are touched

// ---- asynchronous copies --------------------------------------------------------------------------------------------

// The number that stands for "an asynchronous copy that no one has waited for": no thread knows of its events.
constexpr uint32_t kInFlight = (1u << 14) - 1;

// Shared memory is written (or, as a source, read) from now on by a copy; marked with `number` and `clock`.
void shadow_mark_write(const void* shared, size_t bytes, uint32_t number, uint64_t clock, const void* where);
void shadow_mark_read(const void* shared, size_t bytes, const void* where);
// The thread has waited for the copy that reads there: the read is the thread's.
void shadow_end_read(Thread* thread, const void* shared, size_t bytes);
// Each byte's last write was made visible to the asynchronous proxy by its writer.
void shadow_check_proxy(Thread* thread, const void* shared, size_t bytes, const void* where);

// The same for what a copy writes to global memory; ends when its thread has waited for all of it.
void shadow_mark_global(const void* global, size_t bytes, uint32_t number, uint64_t clock, const void* where);

// ---- order between streams ------------------------------------------------------------------------------------------

extern bool any_unordered;  // earlier work is not ordered before this
bool is_unordered(uint64_t clock);
// What kernels did to these bytes in other streams, if the host may not touch them; empty if it may.
std::string unordered_cell(const char* begin, size_t bytes, bool writes);
void check_touches(Thread* thread, const char* at, size_t bytes, Access kind, const void* where);
void forget_touches(const char* begin, const char* end);

// ---- hand-over between blocks ---------------------------------------------------------------------------------------

// Whether the thread was handed over event `clock` of thread `number` of an earlier cluster of this grid.
bool handed_over(const Thread* thread, uint32_t number, uint64_t clock);
void handover_launch();
void handover_start();
void handover_release(Thread* thread, const void* address);
void handover_acquire(Thread* thread, const void* address);

// ---- shared memory of other blocks of the cluster -------------------------------------------------------------------

void remote_start();
void remote_started(const Thread* thread, uint32_t rank, const void* where);  // a fault if it may not have
void remote_access(Thread* thread, uint32_t rank, const void* where);
// An asynchronous store that lands as event `clock` of a pseudo-thread.
void remote_store(uint32_t number, uint64_t clock, uint32_t rank, const void* where);
// Bounds and order of a store that lands by itself.
void async_store(Thread* thread, const void* shared, size_t bytes, const void* where);
void remote_exit(Thread* thread);
void remote_check();  // the cluster is done: no block was gone while a peer used its shared memory

}  // namespace simt
