// Warp collectives: every lane leaves pointers to its input and its output, the last one to arrive computes for all.
#include <cstring>

#include "clock.hpp"
#include "device.hpp"
#include "engine.hpp"

namespace simt {

void check_exit(Thread* thread) {
  for (const Pending& pending : thread->warp->pending)
    if (pending.name != nullptr && (pending.mask >> thread->lane & 1) != 0)
      fault("collective names an exited lane",
            SIMT_TEXT("%s exited, but %s with mask %08x at %s waits for it", who(thread).c_str(), pending.name,
                      pending.mask, place(pending.where).c_str()));
}

void collective(const char* name, uint32_t mask, const void* in, void* out, void (*compute)(Lanes&), bool order,
                const void* where) {
  Thread* self = current;
  Warp* warp = self->warp;
  const uint32_t bit = 1u << self->lane;
  if ((mask & bit) == 0)
    fault("collective without its caller", SIMT_TEXT("%s calls %s with mask %08x, in which it is not, at %s",
                                                     who(self).c_str(), name, mask, place(where).c_str()));
  if ((mask & ~warp->alive) != 0)
    fault("collective names an exited lane",
          SIMT_TEXT("%s calls %s with mask %08x, but lanes %08x have exited or do not exist, at %s", who(self).c_str(),
                    name, mask, mask & ~warp->alive, place(where).c_str()));
  Pending* mine = nullptr;
  for (Pending& pending : warp->pending) {
    if (pending.name == nullptr) {
      if (mine == nullptr) mine = &pending;
    } else if (pending.mask == mask && (pending.name == name || strcmp(pending.name, name) == 0)) {
      mine = &pending;
      break;
    } else if ((pending.arrived & mask) != 0 && (pending.mask & bit) != 0) {
      fault("lanes at different collectives",
            SIMT_TEXT("%s calls %s with mask %08x at %s, but lanes %08x wait in %s with mask %08x at %s",
                      who(self).c_str(), name, mask, place(where).c_str(), pending.arrived, pending.name, pending.mask,
                      place(pending.where).c_str()));
    }
  }
  if (mine == nullptr)
    fault("not simulated", SIMT_TEXT("more than 4 collectives of one warp at a time, at %s", place(where).c_str()));
  if (mine->name == nullptr) {
    mine->name = name;
    mine->mask = mask;
    mine->arrived = 0;
    mine->order = order;
    mine->where = where;
    mine->lanes.mask = mask;
    if (mask != ~0u) {
      memset(mine->lanes.in, 0, sizeof mine->lanes.in);
      memset(mine->lanes.out, 0, sizeof mine->lanes.out);
    }
  }
  mine->arrived |= bit;
  mine->lanes.in[self->lane] = in;
  mine->lanes.out[self->lane] = out;
  mine->lanes.thread[self->lane] = self->index;
  if (mine->arrived != mask) {
    block_current(name, where);
    return;
  }
  compute(mine->lanes);
  if (order) {
    Thread* joined[kWarpLanes];
    uint32_t count = 0;
    for (uint32_t lane = 0; lane < kWarpLanes; ++lane)
      if ((mask >> lane & 1) != 0) joined[count++] = &warp->threads[lane];
    clock_join(joined, count);
  }
  mine->name = nullptr;
  warp->ready |= mask & ~bit;
  if (warp->ready != 0) running.ready_warps[warp->number / 64] |= uint64_t{1} << warp->number % 64;
}

// ---- those of cuda.hpp ----------------------------------------------------------------------------------------------

void warp_barrier(uint32_t mask, const void* where) {
  collective("__syncwarp", mask, nullptr, nullptr, [](Lanes&) {}, true, where);
}

namespace {

struct ShuffleIn {
  uint64_t bits;
  uint32_t source;
  bool own;  // the source lies outside the segment
  const void* where;
};

void shuffle_all(Lanes& lanes) {
  for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
    if ((lanes.mask >> lane & 1) == 0) continue;
    const auto* in = static_cast<const ShuffleIn*>(lanes.in[lane]);
    const uint32_t source = in->own ? lane : in->source;
    if ((lanes.mask >> source & 1) == 0)
      fault("shuffle reads an inactive lane",
            SIMT_TEXT("thread %u of block %u reads lane %u, which is not in mask %08x, at %s", lanes.thread[lane],
                      this_block(), source, lanes.mask, place(in->where).c_str()));
    *static_cast<uint64_t*>(lanes.out[lane]) = static_cast<const ShuffleIn*>(lanes.in[source])->bits;
  }
}

struct ReduceIn {
  uint32_t value;
  int kind;
};

}  // namespace

uint64_t shuffle(const char* name, uint32_t mask, uint64_t bits, int kind, int by, int width, const void* where) {
  if (kind != kIndex && (by < 0 || by > 31))
    fault("shuffle", SIMT_TEXT("%s by %d lanes, at %s: the GPU takes the last 5 bits of it", name, by,
                               place(where).c_str()));
  if (width < 1 || width > 32 || (width & (width - 1)) != 0)
    fault("shuffle", SIMT_TEXT("width %d is no power of 2 up to 32, at %s", width, place(where).c_str()));
  const int lane = static_cast<int>(current->lane), first = lane & -width, last = first + width - 1;
  int source = 0;
  switch (kind) {
    case kIndex: source = first + (by & (width - 1)); break;
    case kUp: source = by > lane ? -1 : lane - by; break;
    case kDown: source = by > 31 ? 32 : lane + by; break;
    default: source = lane ^ (by & 31); break;
  }
  // Up stops at the segment's start, down at its end; xor may reach into an earlier segment, not into a later one.
  const bool own = kind == kUp ? source < first : kind != kIndex && source > last;
  const ShuffleIn in{bits, static_cast<uint32_t>(source), own, where};
  uint64_t out;
  collective(name, mask, &in, &out, shuffle_all, false, where);
  return out;
}

uint32_t vote(const char* name, uint32_t mask, bool predicate, const void* where) {
  const uint32_t in = predicate;
  uint32_t out;
  collective(
      name, mask, &in, &out,
      [](Lanes& lanes) {
        uint32_t all = 0;
        for (uint32_t lane = 0; lane < kWarpLanes; ++lane)
          if ((lanes.mask >> lane & 1) != 0) all |= *static_cast<const uint32_t*>(lanes.in[lane]) << lane;
        for (uint32_t lane = 0; lane < kWarpLanes; ++lane)
          if ((lanes.mask >> lane & 1) != 0) *static_cast<uint32_t*>(lanes.out[lane]) = all;
      },
      false, where);
  return out;
}

uint32_t match_any(uint32_t mask, uint64_t bits, const void* where) {
  uint32_t out;
  collective(
      "__match_any_sync", mask, &bits, &out,
      [](Lanes& lanes) {
        for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
          if ((lanes.mask >> lane & 1) == 0) continue;
          uint32_t same = 0;
          for (uint32_t other = 0; other < kWarpLanes; ++other)
            if ((lanes.mask >> other & 1) != 0 &&
                *static_cast<const uint64_t*>(lanes.in[other]) == *static_cast<const uint64_t*>(lanes.in[lane]))
              same |= 1u << other;
          *static_cast<uint32_t*>(lanes.out[lane]) = same;
        }
      },
      false, where);
  return out;
}

uint32_t reduce(const char* name, uint32_t mask, uint32_t value, int kind, const void* where) {
  const ReduceIn in{value, kind};
  uint32_t out;
  collective(
      name, mask, &in, &out,
      [](Lanes& lanes) {
        uint32_t result = 0;
        bool first = true;
        for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
          if ((lanes.mask >> lane & 1) == 0) continue;
          const auto* in = static_cast<const ReduceIn*>(lanes.in[lane]);
          const uint32_t x = in->value;
          const int32_t a = static_cast<int32_t>(result), b = static_cast<int32_t>(x);
          if (first)
            result = x;
          else
            switch (in->kind) {
              case kAdd: result += x; break;
              case kMinSigned: result = b < a ? x : result; break;
              case kMaxSigned: result = b > a ? x : result; break;
              case kMinUnsigned: result = x < result ? x : result; break;
              case kMaxUnsigned: result = x > result ? x : result; break;
              case kAnd: result &= x; break;
              case kOr: result |= x; break;
              default: result ^= x; break;
            }
          first = false;
        }
        for (uint32_t lane = 0; lane < kWarpLanes; ++lane)
          if ((lanes.mask >> lane & 1) != 0) *static_cast<uint32_t*>(lanes.out[lane]) = result;
      },
      false, where);
  return out;
}

void yield() { yield_current("__nanosleep", SIMT_CALLER); }
void trap() {
  const void* where = SIMT_CALLER;
  fault("trap", SIMT_TEXT("%s calls __trap at %s", who(current).c_str(), place(where).c_str()));
}

}  // namespace simt
