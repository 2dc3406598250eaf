// mbarriers. The 8 bytes: magic 2 bits, phase 1, arrivals pending 20, expected 20, bytes outstanding 21, biased.
#include <algorithm>
#include <deque>

#include "async.hpp"
#include "clock.hpp"
#include "memory.hpp"

namespace simt {

namespace {

constexpr uint64_t kMagic = 2, kCount = (1u << 20) - 1, kTx = (1u << 21) - 1, kTxBias = 1u << 20;

struct State {
  uint32_t phase, pending, expected;
  int64_t bytes;
};

bool unpack(uint64_t bits, State& state) {
  if (bits >> 62 != kMagic) return false;
  state = {static_cast<uint32_t>(bits >> 61 & 1), static_cast<uint32_t>(bits >> 41 & kCount),
           static_cast<uint32_t>(bits >> 21 & kCount),
           static_cast<int64_t>(bits & kTx) - static_cast<int64_t>(kTxBias)};
  return true;
}
uint64_t pack(const State& state) {
  return kMagic << 62 | uint64_t{state.phase} << 61 | uint64_t{state.pending} << 41 | uint64_t{state.expected} << 21 |
         static_cast<uint64_t>(state.bytes + static_cast<int64_t>(kTxBias));
}

std::deque<MBarrier> barriers;  // of the running cluster; a deque, since others hold references

State load(const MBarrier& barrier, const char* what, const void* where) {
  State state;
  if (!unpack(*barrier.address, state))
    fault("mbarrier overwritten", SIMT_TEXT("%s: %s finds no mbarrier in shared memory any more, at %s",
                                            who(current).c_str(), what, place(where).c_str()));
  return state;
}

// Ends the phase if nothing is outstanding.
void store(MBarrier& barrier, State state) {
  if (state.pending == 0 && state.bytes == 0) {
    state.phase ^= 1;
    state.pending = state.expected;
    clock_drop(barrier.open);
    barrier.open = barrier.gathering;
    barrier.gathering = nullptr;
    if (barrier.open != nullptr) barrier.open->clock[barrier.number] = barrier.clock;
    ++barrier.clock;
    clocks.last = std::max(clocks.last, barrier.clock);
    for (Thread* waiter : barrier.waiters) {
      clock_acquire(waiter, barrier.open);
      make_ready(waiter);
    }
    barrier.waiters.clear();
  }
  *barrier.address = pack(state);
}

MBarrier& own_barrier(uint64_t* address, const char* what, const void* where) {
  if (rank_of(address) != current->block->rank)
    fault("mbarrier", SIMT_TEXT("%s: %s of an mbarrier that is not in the block's own shared memory, at %s",
                                who(current).c_str(), what, place(where).c_str()));
  return mbarrier_at(address, what, where);
}

void arrive(uint64_t* address, uint32_t bytes, const char* what, const void* where) {
  MBarrier& barrier = own_barrier(address, what, where);
  State state = load(barrier, what, where);
  if (state.pending == 0)
    fault("mbarrier", SIMT_TEXT("%s: one arrival more than the %u that it was initialised for in this phase, at %s",
                                who(current).c_str(), state.expected, place(where).c_str()));
  if (bytes > kTxBias - 1 || state.bytes + bytes > static_cast<int64_t>(kTxBias - 1))
    fault("mbarrier", SIMT_TEXT("%s: more than 2^20 - 1 bytes outstanding at %s", who(current).c_str(),
                                place(where).c_str()));
  clock_release(current, barrier.gathering);
  --state.pending;
  state.bytes += bytes;
  store(barrier, state);
}

}  // namespace

uint32_t rank_of(const void* shared) {
  const size_t at = static_cast<size_t>(static_cast<const char*>(shared) - arena);
  return at < kMostCluster * kSlotBytes ? static_cast<uint32_t>(at / kSlotBytes) : ~0u;
}

MBarrier& mbarrier_at(uint64_t* address, const char* what, const void* where) {
  for (MBarrier& barrier : barriers) {
    if (barrier.address != address) continue;
    load(barrier, what, where);
    if (the_mode.races && !knows(current, barrier.init_number, barrier.init_clock))
      fault("race", SIMT_TEXT("%s: %s at %s is not ordered after the initialisation of the mbarrier by %s",
                              who(current).c_str(), what, place(where).c_str(),
                              who(&threads[barrier.init_number]).c_str()));
    return barrier;
  }
  fault("mbarrier not initialised",
        SIMT_TEXT("%s: %s at %s", who(current).c_str(), what, place(where).c_str()));
}

void reset_mbarriers() {
  for (MBarrier& barrier : barriers) {
    clock_drop(barrier.gathering);
    clock_drop(barrier.open);
  }
  barriers.clear();
}

void mbarrier_complete(MBarrier& barrier, uint32_t bytes) {
  State state;
  if (!unpack(*barrier.address, state))
    fault("mbarrier overwritten", SIMT_TEXT("a copy that has landed finds no mbarrier in shared memory any more"));
  state.bytes -= bytes;
  if (state.bytes < -static_cast<int64_t>(kTxBias - 1))
    fault("mbarrier", SIMT_TEXT("more than 2^20 - 1 bytes landed that no one had expected"));
  store(barrier, state);
}

void mbarrier_fence_inits(Thread* thread) {
  for (MBarrier& barrier : barriers)
    if (barrier.init_number == thread->number) barrier.fenced = true;
}

void mbarrier_init(uint64_t* address, uint32_t count) {
  const void* where = SIMT_CALLER;
  Thread* self = current;
  if (rank_of(address) != self->block->rank || reinterpret_cast<uintptr_t>(address) % 8 != 0)
    fault("mbarrier", SIMT_TEXT("%s: mbarrier_init of %p, no 8 aligned bytes of the block's shared memory, at %s",
                                who(self).c_str(), static_cast<void*>(address), place(where).c_str()));
  if (count == 0 || count > kCount)
    fault("mbarrier", SIMT_TEXT("%s: mbarrier_init for %u arrivals at %s", who(self).c_str(), count,
                                place(where).c_str()));
  access(self, address, 8, Access::kWrite, where);
  MBarrier* barrier = nullptr;
  for (MBarrier& known : barriers)
    if (known.address == address) barrier = &known;
  State alive;
  if (barrier != nullptr && unpack(*address, alive))
    fault("mbarrier", SIMT_TEXT("%s: mbarrier_init of an mbarrier that is one already, at %s", who(self).c_str(),
                                place(where).c_str()));
  if (barrier == nullptr) {
    if (barriers.size() == kPseudoThreads)
      fault("not simulated", SIMT_TEXT("more than %u mbarriers in a cluster", kPseudoThreads));
    barriers.push_back({address, running.threads + static_cast<uint32_t>(barriers.size()), clocks.birth + 1, 0, 0,
                        false, nullptr, nullptr, {}});
    barrier = &barriers.back();
  }
  clock_drop(barrier->gathering);
  barrier->init_number = self->number;
  barrier->init_clock = self->own;
  barrier->fenced = false;
  *address = pack({0, count, count, 0});
}

void mbarrier_init_fence() { mbarrier_fence_inits(current); }

void mbarrier_arrive(uint64_t* address) { arrive(address, 0, "mbarrier_arrive", SIMT_CALLER); }

void mbarrier_expect(uint64_t* address, uint32_t bytes) { arrive(address, bytes, "mbarrier_expect", SIMT_CALLER); }

void mbarrier_wait(uint64_t* address, uint32_t parity) {
  const void* where = SIMT_CALLER;
  if (parity > 1)
    fault("mbarrier", SIMT_TEXT("%s: waits for parity %u at %s", who(current).c_str(), parity, place(where).c_str()));
  MBarrier& barrier = own_barrier(address, "mbarrier_wait", where);
  const State state = load(barrier, "mbarrier_wait", where);
  if (state.phase != parity) {
    clock_acquire(current, barrier.open);
    return;
  }
  barrier.waiters.push_back(current);
  block_current(parity == 0 ? "mbarrier_wait (parity 0)" : "mbarrier_wait (parity 1)", where);
}

}  // namespace simt
