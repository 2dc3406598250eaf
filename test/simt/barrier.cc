// Barriers of a block (__syncthreads is number 0) and of a cluster.
#include "barrier.hpp"

#include "clock.hpp"
#include "engine.hpp"

namespace simt {

namespace {

struct ClusterBarrier {
  uint32_t arrived;
  uint64_t phase;
  Base* gathering;  // what those that arrived know
  Base* open;       // what the last phase knew
  uint32_t waiting;
  Thread* waiters[kMostFibres];
};
ClusterBarrier cluster_barrier;
uint64_t cluster_phase[kMostFibres];  // per thread: the phase it arrived in + 1; 0: it has waited

uint32_t meet(uint32_t id, uint32_t expected, uint32_t predicate, const char* what, const void* where) {
  Thread* self = current;
  Block* block = self->block;
  Barrier& barrier = block->barriers[id];
  if (barrier.arrived == 0) {
    barrier.expected = expected;
    barrier.where = where;
    barrier.any = barrier.count = 0;
    barrier.all = 1;
  } else if (barrier.expected != expected) {
    fault("barrier", SIMT_TEXT("%s waits at barrier %u for %u threads at %s, others wait for %u", who(self).c_str(), id,
                               expected, place(where).c_str(), barrier.expected));
  }
  // Branches that have a barrier each do not meet: the GPU may wait for ever, or not at all.
  if (id == 0 && !same_place(barrier.where, where))
    fault("divergent barrier", SIMT_TEXT("%s is at %s at %s, others of its block are at %s", who(self).c_str(), what,
                                         place(where).c_str(), place(barrier.where).c_str()));
  barrier.any |= predicate;
  barrier.all &= predicate;
  barrier.count += predicate;
  barrier.waiting[barrier.arrived++] = self;
  if (barrier.arrived < barrier.expected) {
    block_current(what, where);
  } else {
    clock_join(barrier.waiting, barrier.arrived);
    const uint32_t answer = barrier.any | barrier.all << 1 | barrier.count << 2;
    for (uint32_t i = 0; i < barrier.arrived; ++i) {
      barrier.waiting[i]->answer = answer;
      if (barrier.waiting[i] != self) make_ready(barrier.waiting[i]);
    }
    barrier.arrived = 0;
  }
  return self->answer;
}

}  // namespace

void reset_barriers() {
  for (uint32_t rank = 0; rank < running.blocks; ++rank)
    for (Barrier& barrier : blocks[rank].barriers) barrier.arrived = 0;
  cluster_barrier.arrived = cluster_barrier.waiting = 0;
  cluster_barrier.phase = 0;
  clock_drop(cluster_barrier.gathering);
  clock_drop(cluster_barrier.open);
  for (uint32_t i = 0; i < running.threads; ++i) cluster_phase[i] = 0;
}

void block_barrier() { meet(0, running.grid.threads, 0, "__syncthreads", SIMT_CALLER); }
int block_barrier_or(int predicate) {
  return meet(0, running.grid.threads, predicate != 0, "__syncthreads_or", SIMT_CALLER) & 1;
}
int block_barrier_and(int predicate) {
  return meet(0, running.grid.threads, predicate != 0, "__syncthreads_and", SIMT_CALLER) >> 1 & 1;
}
int block_barrier_count(int predicate) {
  return static_cast<int>(meet(0, running.grid.threads, predicate != 0, "__syncthreads_count", SIMT_CALLER) >> 2);
}

void named_barrier(uint32_t id, uint32_t expected) {
  const void* where = SIMT_CALLER;
  if (id == 0 || id >= kNamedBarriers || expected == 0 || expected % kWarpLanes != 0 || expected > running.grid.threads)
    fault("barrier", SIMT_TEXT("%s waits at barrier %u for %u threads at %s: barriers are 1 to 15 (0 is __syncthreads), a count is a "
                               "multiple of 32 and at most the block's %u",
                               who(current).c_str(), id, expected, place(where).c_str(), running.grid.threads));
  meet(id, expected, 0, "named_barrier", where);
}

uint32_t cluster_rank() { return current->block->rank; }
uint32_t cluster_size() { return running.grid.cluster; }

void cluster_arrive() {
  const void* where = SIMT_CALLER;
  Thread* self = current;
  ClusterBarrier& barrier = cluster_barrier;
  if (cluster_phase[self->number] != 0)
    fault("cluster barrier", SIMT_TEXT("%s arrives a second time without waiting, at %s", who(self).c_str(),
                                       place(where).c_str()));
  cluster_phase[self->number] = barrier.phase + 1;
  clock_release(self, barrier.gathering);
  if (++barrier.arrived < running.threads) return;
  clock_drop(barrier.open);
  barrier.open = barrier.gathering;
  barrier.gathering = nullptr;
  barrier.arrived = 0;
  ++barrier.phase;
  for (uint32_t i = 0; i < barrier.waiting; ++i) make_ready(barrier.waiters[i]);
  barrier.waiting = 0;
}

void cluster_wait() {
  const void* where = SIMT_CALLER;
  Thread* self = current;
  ClusterBarrier& barrier = cluster_barrier;
  if (cluster_phase[self->number] == 0)
    fault("cluster barrier", SIMT_TEXT("%s waits without having arrived, at %s", who(self).c_str(),
                                       place(where).c_str()));
  if (cluster_phase[self->number] == barrier.phase + 1) {
    barrier.waiters[barrier.waiting++] = self;
    block_current("the cluster barrier", where);
  }
  cluster_phase[self->number] = 0;
  clock_acquire(self, barrier.open);
}

}  // namespace simt
