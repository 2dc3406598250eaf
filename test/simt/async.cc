// Asynchronous copies. Their destination is NaN from the issue on, their source is read when they land: as late as the
// program allows, as early, or by the seed (mode().copies). Late ones that an mbarrier counts land when no fibre can go
// on; those that their own thread waits for land in that wait.
#include "async.hpp"

#include <algorithm>
#include <cstring>

#include "clock.hpp"
#include "shadow.hpp"

namespace simt {

namespace {

struct Copy {
  void* to;
  const void* from;
  uint32_t bytes, valid;  // bytes after `valid` become 0
  uint64_t group;
  bool landed;
  bool read;  // bulk_store: its thread knows that the source has been read
  const void* where;
};
struct Counted {  // by an mbarrier
  void* to;
  const void* from;  // null: the value
  unsigned char value[16];
  uint32_t bytes;
  MBarrier* barrier;
  const void* where;
};
struct OfThread {
  uint64_t cluster = 0;  // that these are of
  uint64_t async_group = 0, bulk_group = 0;  // that is open
  std::vector<Copy> async, bulk;
};

uint64_t cluster_number = 0;
std::vector<OfThread> of_threads;
std::vector<Counted> counted;

OfThread& mine() {
  if (of_threads.size() < running.threads) of_threads.resize(running.threads);
  OfThread& own = of_threads[current->number];
  if (own.cluster != cluster_number) {
    own.cluster = cluster_number;
    own.async_group = own.bulk_group = 0;
    own.async.clear();
    own.bulk.clear();
  }
  return own;
}

bool lands_at_issue() {
  return the_mode.copies == Copies::kEarly || (the_mode.copies == Copies::kRandom && random_bits() >> 63 != 0);
}

void poison(void* to, size_t bytes) { memset(to, 0xff, bytes); }

void land(Copy& copy) {
  if (copy.landed) return;
  copy.landed = true;
  memcpy(copy.to, copy.from, copy.valid);
  memset(static_cast<char*>(copy.to) + copy.valid, 0, copy.bytes - copy.valid);
}

void land(const Counted& copy) {
  memcpy(copy.to, copy.from != nullptr ? copy.from : copy.value, copy.bytes);
  mbarrier_complete(*copy.barrier, copy.bytes);
}

void issue(Counted copy) {
  if (lands_at_issue()) return land(copy);
  poison(copy.to, copy.bytes);
  counted.push_back(copy);
}

bool aligned(const void* address, size_t to) { return reinterpret_cast<uintptr_t>(address) % to == 0; }

[[noreturn]] void wrong(const char* what, const char* why, const void* where) {
  fault("copy", SIMT_TEXT("%s: %s %s, at %s", who(current).c_str(), what, why, place(where).c_str()));
}

void must_be_own(const void* shared, const char* what, const void* where) {
  if (rank_of(shared) != current->block->rank)
    wrong(what, "takes an address outside the block's own shared memory", where);
}

void bulk_shape(const void* shared, const void* global, uint32_t bytes, const char* what, const void* where) {
  must_be_own(shared, what, where);
  if (!aligned(shared, 16) || !aligned(global, 16) || bytes % 16 != 0 || bytes == 0)
    wrong(what, "needs addresses and a size that are multiples of 16", where);
}

}  // namespace

bool complete_one_copy() {
  if (counted.empty()) return false;
  std::swap(counted[random_bits() % counted.size()], counted.back());  // they land in any order
  const Counted copy = counted.back();
  counted.pop_back();
  land(copy);
  return true;
}

void reset_copies() {
  ++cluster_number;
  counted.clear();
  reset_mbarriers();
}

void finish_copies() {
  if (!counted.empty())
    fault("copy", SIMT_TEXT("the blocks exit while the copy issued at %s is under way", place(counted[0].where).c_str()));
  for (uint32_t i = 0; i < running.threads && i < of_threads.size(); ++i) {
    OfThread& own = of_threads[i];
    if (own.cluster != cluster_number) continue;
    for (Copy& copy : own.async) land(copy);
    for (Copy& copy : own.bulk) {
      if (!copy.read)
        fault("copy", SIMT_TEXT("%s exited without bulk_wait: bulk_store at %s still reads its shared memory",
                                who(&threads[i]).c_str(), place(copy.where).c_str()));
      land(copy);
    }
  }
}

// ---- cp.async -------------------------------------------------------------------------------------------------------

void cp_async(void* shared, const void* global, int bytes, int valid_bytes) {
  const void* where = SIMT_CALLER;
  if ((bytes != 4 && bytes != 8 && bytes != 16) || valid_bytes < 0 || valid_bytes > bytes)
    wrong("cp_async", "copies 4, 8 or 16 bytes", where);
  must_be_own(shared, "cp_async", where);
  const auto size = static_cast<uint32_t>(bytes), valid = static_cast<uint32_t>(valid_bytes);
  if (!aligned(shared, size) || (valid > 0 && !aligned(global, size)))
    wrong("cp_async", "needs addresses that are aligned to its size", where);
  if (valid > 0) must_be_global(global, "cp_async", where);
  if (valid > 0) access(current, global, valid, Access::kRead, where);
  access(current, shared, size, Access::kWrite, where);
  shadow_mark_write(shared, size, kInFlight, clocks.birth + 1, where);
  OfThread& own = mine();
  own.async.push_back({shared, global, size, valid, own.async_group, false, false, where});
  if (lands_at_issue())
    land(own.async.back());
  else
    poison(shared, size);
}

void cp_async_commit() { ++mine().async_group; }

void cp_async_wait(int pending) {
  OfThread& own = mine();
  size_t done = 0;
  for (; done < own.async.size(); ++done) {
    Copy& copy = own.async[done];
    if (copy.group + static_cast<uint64_t>(pending) >= own.async_group) break;
    land(copy);
    shadow_mark_write(copy.to, copy.bytes, current->number, current->own, copy.where);
  }
  own.async.erase(own.async.begin(), own.async.begin() + static_cast<std::ptrdiff_t>(done));
}

// ---- bulk copies ----------------------------------------------------------------------------------------------------

void bulk_load(void* shared, const void* global, uint32_t bytes, uint64_t* address) {
  const void* where = SIMT_CALLER;
  bulk_shape(shared, global, bytes, "bulk_load", where);
  must_be_own(address, "bulk_load", where);
  MBarrier& barrier = mbarrier_at(address, "bulk_load", where);
  if (!barrier.fenced)
    wrong("bulk_load", "uses an mbarrier without mbarrier_init_fence by the thread that initialised it", where);
  must_be_global(global, "bulk_load", where);
  access(current, global, bytes, Access::kRead, where);
  shadow_check_proxy(current, shared, bytes, where);
  access(current, shared, bytes, Access::kWrite, where);
  shadow_mark_write(shared, bytes, barrier.number, barrier.clock, where);
  remote_store(barrier.number, barrier.clock, current->block->rank, where);
  issue({shared, global, {}, bytes, &barrier, where});
}

void bulk_store(void* global, const void* shared, uint32_t bytes) {
  const void* where = SIMT_CALLER;
  bulk_shape(shared, global, bytes, "bulk_store", where);
  must_be_global(global, "bulk_store", where);
  access(current, shared, bytes, Access::kRead, where);
  shadow_check_proxy(current, shared, bytes, where);
  access(current, global, bytes, Access::kWrite, where);
  shadow_mark_read(shared, bytes, where);
  shadow_mark_global(global, bytes, kInFlight, clocks.birth + 1, where);
  OfThread& own = mine();
  own.bulk.push_back({global, shared, bytes, bytes, own.bulk_group, false, false, where});
  if (lands_at_issue())
    land(own.bulk.back());
  else
    poison(global, bytes);
}

void bulk_commit() { ++mine().bulk_group; }

void bulk_wait(int pending, bool read_only) {
  OfThread& own = mine();
  for (Copy& copy : own.bulk) {
    if (copy.group + static_cast<uint64_t>(pending) >= own.bulk_group) break;
    if (copy.read) continue;
    land(copy);
    copy.read = true;
    shadow_end_read(current, copy.from, copy.bytes);
  }
  if (read_only) return;
  std::erase_if(own.bulk, [&](const Copy& copy) {
    if (copy.group + static_cast<uint64_t>(pending) >= own.bulk_group) return false;
    shadow_mark_global(copy.to, copy.bytes, current->number, current->own, copy.where);
    return true;
  });
}

void proxy_fence() {
  current->fenced = current->own++;
  mbarrier_fence_inits(current);
}

// ---- st.async -------------------------------------------------------------------------------------------------------

void st_async(void* peer_shared, const void* value, int bytes, uint64_t* peer_barrier) {
  const void* where = SIMT_CALLER;
  if (bytes != 4 && bytes != 8 && bytes != 16) wrong("st_async", "stores 4, 8 or 16 bytes", where);
  const auto size = static_cast<uint32_t>(bytes);
  const uint32_t rank = rank_of(peer_shared);
  if (rank >= running.blocks || rank_of(peer_barrier) != rank)
    wrong("st_async", "needs an address and an mbarrier in the shared memory of one block of the cluster", where);
  if (!aligned(peer_shared, size)) wrong("st_async", "needs an address that is aligned to its size", where);
  MBarrier& barrier = mbarrier_at(peer_barrier, "st_async", where);
  // The store is the barrier's event, not the thread's: the peer knows of it once it has waited there.
  async_store(current, peer_shared, size, where);
  shadow_mark_write(peer_shared, size, barrier.number, barrier.clock, where);
  remote_store(barrier.number, barrier.clock, rank, where);
  Counted copy{peer_shared, nullptr, {}, size, &barrier, where};
  memcpy(copy.value, value, size);
  issue(copy);
}

}  // namespace simt
