// What mbarriers and asynchronous copies know of each other.
#pragma once

#include "engine.hpp"

namespace simt {

// One initialised mbarrier of the running cluster. Its counts live in its 8 bytes of shared memory, so that overwriting
// them shows.
struct MBarrier {
  uint64_t* address;
  uint32_t number;         // its pseudo-thread, which copies write under
  uint64_t clock;          // of the phase under way
  uint32_t init_number;    // the thread that initialised it, and when
  uint64_t init_clock;
  bool fenced;             // mbarrier_init_fence or proxy_fence by that thread since
  Base* gathering;         // what those that arrived in this phase know
  Base* open;              // what the last phase's knew
  std::vector<Thread*> waiters;
};

// The mbarrier at that address; a fault if there is none that the thread may know of.
MBarrier& mbarrier_at(uint64_t* address, const char* what, const void* where);
// A copy that counts on it has landed.
void mbarrier_complete(MBarrier& barrier, uint32_t bytes);
void mbarrier_fence_inits(Thread* thread);
void reset_mbarriers();

uint32_t rank_of(const void* shared);  // ~0 if it is not shared memory

}  // namespace simt
