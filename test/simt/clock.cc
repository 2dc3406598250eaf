// Vector clocks: bases are counted references from a free list.
#include "clock.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "shadow.hpp"

namespace simt {

Clocks clocks;

namespace {

struct FreeBase {
  FreeBase* next;
};
FreeBase* free_bases = nullptr;

uint32_t entries() { return running.threads + kPseudoThreads; }

Base* new_base() {
  if (free_bases == nullptr) {
    constexpr size_t kStride = (sizeof(Base) + 4095) / 4096 * 4096, kCount = 64;
    // Only the pages that a cluster's size needs are ever touched.
    void* memory =
        mmap(nullptr, kStride * kCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      fputs("simt: no memory for clocks\n", stderr);
      abort();
    }
    for (size_t i = 0; i < kCount; ++i) {
      auto* base = reinterpret_cast<FreeBase*>(static_cast<char*>(memory) + i * kStride);
      base->next = free_bases;
      free_bases = base;
    }
  }
  FreeBase* base = free_bases;
  free_bases = base->next;
  return reinterpret_cast<Base*>(base);
}

void drop(Base* base, uint32_t count = 1) {
  base->references -= count;
  if (base->references > 0) return;
  auto* free = reinterpret_cast<FreeBase*>(base);
  free->next = free_bases;
  free_bases = free;
}

void raise(Base* base, const Base* other) {
  const uint32_t n = entries();
  uint64_t* __restrict to = base->clock;
  const uint64_t* __restrict from = other->clock;
  for (uint32_t i = 0; i < n; ++i) to[i] = std::max(to[i], from[i]);
}

Base* copy(const Base* of) {
  Base* base = new_base();
  memcpy(base->clock, of->clock, entries() * sizeof(uint64_t));
  base->references = 1;
  return base;
}

// The last acquire: threads that wake from one barrier mostly knew the same before and know the same after.
Base *cached_in = nullptr, *cached_from = nullptr, *cached_out = nullptr;

void forget_cache() {
  if (cached_in == nullptr) return;
  drop(cached_in);
  drop(cached_from);
  drop(cached_out);
  cached_in = cached_from = cached_out = nullptr;
}

bool started = false;

}  // namespace

void clock_launch() {
  clocks.launch = clocks.last;
  handover_launch();
}

void clock_start() {
  clocks.birth = clocks.last;
  const uint32_t n = running.threads;
  Base* base = nullptr;
  if (the_mode.races) {
    base = new_base();
    base->references = n;
    std::fill_n(base->clock, entries(), clocks.birth);
  }
  for (uint32_t i = 0; i < n; ++i) {
    threads[i].base = base;
    threads[i].own = clocks.birth + 1;
    threads[i].fenced = clocks.birth;
  }
  clocks.last = clocks.birth + 1;
  started = true;
  handover_start();
  remote_start();
}

void clock_end() {
  if (!started) return;
  started = false;
  if (!the_mode.races) return;
  forget_cache();
  uint64_t last = clocks.last;
  for (uint32_t i = 0; i < running.threads; ++i) {
    last = std::max(last, threads[i].own);
    drop(threads[i].base);
    threads[i].base = nullptr;
  }
  clocks.last = last + 1;
}

void clock_exit(Thread* thread) { remote_exit(thread); }

void clock_join(Thread** joined, uint32_t count) {
  if (!the_mode.races || count == 0) return;
  Base* base = copy(joined[0]->base);
  const Base* seen = joined[0]->base;
  for (uint32_t i = 1; i < count; ++i) {
    if (joined[i]->base == seen) continue;
    seen = joined[i]->base;
    raise(base, seen);
  }
  base->references = count;
  for (uint32_t i = 0; i < count; ++i) {
    Thread* thread = joined[i];
    base->clock[thread->number] = thread->own++;
    drop(thread->base);
    thread->base = base;
  }
}

void clock_release(Thread* thread, Base*& into) {
  if (!the_mode.races) return;
  if (into == nullptr) {
    into = copy(thread->base);
  } else {
    if (into->references > 1) {
      Base* own = copy(into);
      drop(into);
      into = own;
    }
    raise(into, thread->base);
  }
  into->clock[thread->number] = thread->own++;
}

void clock_acquire(Thread* thread, Base* from) {
  if (!the_mode.races || from == nullptr || thread->base == from) return;
  if (thread->base != cached_in || from != cached_from) {
    Base* out = copy(thread->base);
    raise(out, from);
    forget_cache();
    cached_in = thread->base;
    cached_from = from;
    cached_out = out;
    ++cached_in->references;
    ++cached_from->references;
  }
  ++cached_out->references;
  drop(thread->base);
  thread->base = cached_out;
}

void clock_drop(Base*& base) {
  if (base == nullptr) return;
  drop(base);
  base = nullptr;
}

}  // namespace simt
