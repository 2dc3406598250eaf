// Vector clocks. A thread's clock is an immutable base that it shares with others plus its own counter, so that a
// barrier of n threads makes one new base. Counters only rise, over blocks and grids: shadow cells need no clearing:
// what is not above the cluster's birth is older than the cluster.
#pragma once

#include "engine.hpp"

namespace simt {

// Entries of a base beyond the threads: the mbarriers of the cluster, which asynchronous copies write under.
constexpr uint32_t kPseudoThreads = 128;

struct Base {
  uint32_t references;
  uint64_t clock[kMostFibres + kPseudoThreads];  // as many as the cluster has threads, then the pseudo-threads
};

struct Clocks {
  uint64_t last = 1;    // highest counter given out so far
  uint64_t launch = 1;  // `last` when the grid started
  uint64_t birth = 1;   // `last` when the cluster started
};
extern Clocks clocks;

void clock_launch();
void clock_start();
void clock_end();
void clock_exit(Thread* thread);

// All of them know all that each knew.
void clock_join(Thread** joined, uint32_t count);
// `into` (null at first) learns what the thread knows; the thread's counter rises.
void clock_release(Thread* thread, Base*& into);
// The thread learns what `from` knows; null: nothing.
void clock_acquire(Thread* thread, Base* from);
void clock_drop(Base*& base);

// Whether the thread knows of event `clock` of thread (or pseudo-thread) `number` of its cluster.
inline bool knows(const Thread* thread, uint32_t number, uint64_t clock) {
  return clock <= clocks.birth || clock <= thread->base->clock[number] || number == thread->number;
}

}  // namespace simt
