// Shared memory of other blocks of the cluster: a block must have started when a peer uses it, and must not be able to
// exit before the peer has.
#include "clock.hpp"
#include "shadow.hpp"

namespace simt {

namespace {

struct Remote {
  uint64_t clock;
  const void* where;
};
constexpr uint32_t kNumbers = kMostFibres + kPseudoThreads;
Remote* remotes = nullptr;  // [kMostCluster][kNumbers]: the last access of each to each rank
bool any_remote[kMostCluster];
Base* exits[kMostCluster];  // what the threads of a block knew when they exited

void note_remote(uint32_t number, uint64_t clock, uint32_t rank, const void* where) {
  if (remotes == nullptr) remotes = static_cast<Remote*>(zeros(kMostCluster * kNumbers * sizeof(Remote)));
  remotes[rank * kNumbers + number] = {clock, where};
  any_remote[rank] = true;
}

}  // namespace

void remote_start() {
  for (uint32_t rank = 0; rank < kMostCluster; ++rank) {
    any_remote[rank] = false;
    clock_drop(exits[rank]);
  }
}

void remote_started(const Thread* thread, uint32_t rank, const void* where) {
  const uint32_t first = rank * running.grid.threads;
  bool started = false;
  for (uint32_t i = 0; i < running.grid.threads && !started; ++i)
    started = thread->base->clock[first + i] > clocks.birth;
  if (!started)
    fault("cluster", SIMT_TEXT("%s uses the shared memory of rank %u, which may not have started, at %s",
                               who(thread).c_str(), rank, place(where).c_str()));
}

void remote_access(Thread* thread, uint32_t rank, const void* where) {
  remote_started(thread, rank, where);
  note_remote(thread->number, thread->own, rank, where);
}

void remote_store(uint32_t number, uint64_t clock, uint32_t rank, const void* where) {
  if (the_mode.races) note_remote(number, clock, rank, where);
}

void remote_exit(Thread* thread) {
  // Who exits before a use knows nothing of it.
  if (the_mode.races && any_remote[thread->block->rank]) clock_release(thread, exits[thread->block->rank]);
}

void remote_check() {
  if (!the_mode.races) return;
  for (uint32_t rank = 0; rank < running.blocks; ++rank) {
    if (!any_remote[rank]) continue;
    for (uint32_t number = 0; number < running.threads + kPseudoThreads; ++number) {
      const Remote& remote = remotes[rank * kNumbers + number];
      if (remote.clock <= clocks.birth) continue;
      if (exits[rank] != nullptr && remote.clock <= exits[rank]->clock[number]) continue;
      fault("exited block's shared memory",
            SIMT_TEXT("the block of rank %u may have exited when its shared memory is used, at %s", rank,
                      place(remote.where).c_str()));
    }
  }
}

}  // namespace simt
