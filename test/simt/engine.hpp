// What the interpreter's own files share: the running grid, its blocks, warps and threads. Not seen by kernels.
#pragma once

#include "fibre.hpp"
#include "ptx.hpp"
#include "simt.hpp"

namespace simt {

constexpr uint32_t kWarpLanes = 32, kMostThreads = 1024, kMostCluster = 8, kNamedBarriers = 16;
// Shared memory: one slot per block of the running cluster; a kernel's struct starts at 1024, as on sm_90, so that
// 1024-aligned structs work and offset 0 stays invalid.
constexpr size_t kSlotBytes = 256 * 1024, kSharedStart = 1024, kMostShared = 227 * 1024;

struct Block;
struct Warp;
struct Base;  // clock.hpp

struct Thread {
  void* sp;
  const char* stack;  // of kStackBytes
  Block* block;
  Warp* warp;
  uint32_t lane;
  uint32_t index;   // in the block
  uint32_t number;  // in the cluster: its place in vector clocks
  bool done;
  const char* what;   // what it waits for, for the deadlock report
  const void* where;  // the place in the kernel
  uint32_t answer;    // of the barrier that woke it
  Base* base;         // of its vector clock: what it knows of others
  uint64_t own;       // its own clock: rises after each release
  uint64_t fenced;    // its writes up to this clock are visible to the asynchronous proxy
};

inline bool on_own_stack(const Thread* thread, const void* address) {
  return static_cast<size_t>(static_cast<const char*>(address) - thread->stack) < kStackBytes;
}

struct Pending {  // a collective that some lanes have reached
  const char* name;  // null: free
  uint32_t mask, arrived;
  bool order;
  const void* where;
  Lanes lanes;
};

struct Warp {
  Block* block;
  Thread* threads;  // of lane 0
  uint32_t number;  // in the cluster
  uint32_t alive, ready;
  Pending pending[4];
};

struct Barrier {
  uint32_t arrived = 0, expected = 0;
  uint32_t any = 0, all = 1, count = 0;  // of the predicates
  const void* where = nullptr;           // of the first to arrive
  Thread* waiting[kMostThreads];
};

struct Block {
  uint32_t id, rank, alive;
  Thread* threads;
  char* slot;
  Barrier barriers[kNamedBarriers];
};

struct Running {
  Grid grid;
  void (*body)(const void*);
  const void* args;
  size_t args_size;
  uint32_t blocks, threads, warps;  // of the running cluster
  uint32_t alive;
  bool failed;
  void* main_sp;
  Warp* warp;               // that runs
  uint64_t polls;           // since a thread of the cluster last got further than asking again
  uint32_t atomics;         // since the last switch
  uint64_t ready_warps[4];  // bit per warp of the cluster
};

extern Running running;
extern Block* blocks;
extern Warp* warps;
extern Thread* threads;
extern char* arena;  // of the slots
extern __thread Thread* current __attribute__((tls_model("initial-exec")));  // null outside fibres
// The same for the hooks; null from the first SIMT_TEXT of a fault on: templates of the standard library may have been
// compiled with hooks, and the text of a report is not the kernel's memory.
extern __thread Thread* hooked __attribute__((tls_model("initial-exec")));

extern Mode the_mode;  // what mode() returns, without its check; run() has called it

uint64_t random_bits();

// The current thread waits for `what` until make_ready().
void block_current(const char* what, const void* where);
void make_ready(Thread* thread);
void yield_current(const char* what, const void* where);  // a fault if nothing happens for too long
inline void progress() { running.polls = 0; }

// A grid that does not end (watchdog.cc): set when its time is over, and asked for at each access and each switch.
extern volatile int overtime;
void watchdog_start();
void watchdog_stop();
[[noreturn]] void no_end(const void* where);

void check_exit(Thread* thread);           // warp.cc: no collective may wait for it
void reset_barriers();                     // barrier.cc: of a new cluster
bool complete_one_copy();                  // async.cc: lands one pending copy; false if there is none
void reset_copies();                       // async.cc
void finish_copies();                      // async.cc: the cluster is done

#define SIMT_CALLER __builtin_return_address(0)
#define SIMT_TEXT(...) (::simt::hooked = nullptr, ::simt::text(__VA_ARGS__))  // faults only
__attribute__((format(printf, 1, 2))) std::string text(const char* format, ...);
std::string who(const Thread* thread);     // "thread 3 of block 1"
bool same_place(const void* where, const void* other);  // in the source: the compiler may have copied a call
void note_report(const char* kind, std::string message);

}  // namespace simt
