// Runs a grid: its clusters one after another in shuffled order, the threads of one cluster as fibres. One warp runs
// until all its lanes wait, then a random ready one.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "clock.hpp"
#include "engine.hpp"
#include "shadow.hpp"

namespace simt {

Running running;
Block* blocks = nullptr;
Warp* warps = nullptr;
Thread* threads = nullptr;
char* arena = nullptr;
__thread Thread* current = nullptr;
__thread Thread* hooked = nullptr;

namespace {

uint64_t random_state = 1;
std::mutex one_grid;

uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

void* reserve(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    fputs("simt: no address space\n", stderr);
    abort();
  }
  return memory;
}

void prepare_once() {
  if (threads != nullptr) return;
  blocks = static_cast<Block*>(reserve(kMostCluster * sizeof(Block)));
  warps = static_cast<Warp*>(reserve(kMostFibres / kWarpLanes * sizeof(Warp)));
  threads = static_cast<Thread*>(reserve(kMostFibres * sizeof(Thread)));
  char* memory = static_cast<char*>(reserve((kMostCluster + 1) * kSlotBytes));
  const uintptr_t up = (reinterpret_cast<uintptr_t>(memory) + kSlotBytes - 1) / kSlotBytes * kSlotBytes;
  arena = reinterpret_cast<char*>(up);
}

[[noreturn]] void report_deadlock() {
  struct Less {
    bool operator()(const std::pair<const char*, const void*>& a, const std::pair<const char*, const void*>& b) const {
      return a.second != b.second ? a.second < b.second : strcmp(a.first, b.first) < 0;
    }
  };
  std::map<std::pair<const char*, const void*>, uint32_t, Less> groups;
  uint32_t exited = 0;
  hooked = nullptr;  // the map's own accesses are not the kernel's
  for (uint32_t i = 0; i < running.threads; ++i) {
    if (threads[i].done)
      ++exited;
    else
      ++groups[{threads[i].what, threads[i].where}];
  }
  std::string all;
  for (const auto& [key, count] : groups)
    all += SIMT_TEXT("%s%u threads at %s at %s", all.empty() ? "" : "; ", count, key.first, place(key.second).c_str());
  if (exited > 0) all += SIMT_TEXT("; %u have exited", exited);
  fault("deadlock", all);
}

Warp* random_warp() {
  const uint32_t words = (running.warps + 63) / 64;
  uint32_t count = 0;
  for (uint32_t i = 0; i < words; ++i) count += static_cast<uint32_t>(__builtin_popcountll(running.ready_warps[i]));
  if (count == 0) return nullptr;
  uint32_t skip = static_cast<uint32_t>((random_bits() >> 32) * count >> 32);
  for (uint32_t i = 0;; ++i) {
    uint64_t word = running.ready_warps[i];
    const uint32_t here = static_cast<uint32_t>(__builtin_popcountll(word));
    if (skip >= here) {
      skip -= here;
      continue;
    }
    while (skip-- > 0) word &= word - 1;
    return &warps[i * 64 + static_cast<uint32_t>(__builtin_ctzll(word))];
  }
}

// The next thread to run, taken out of its ready set.
Thread* pick() {
  if (overtime != 0) no_end(current == nullptr ? nullptr : current->where);
  running.atomics = 0;
  Warp* warp = running.warp;
  if (warp == nullptr || warp->ready == 0) {
    if (the_mode.copies == Copies::kRandom && (random_bits() >> 62) == 0) complete_one_copy();
    while ((warp = random_warp()) == nullptr)
      if (!complete_one_copy()) report_deadlock();
    running.warp = warp;
  }
  // From a random lane on: the order of lanes is no one's to rely on.
  const uint32_t turn = static_cast<uint32_t>(random_bits() >> 59);
  const uint32_t turned = turn == 0 ? warp->ready : (warp->ready >> turn) | (warp->ready << (32 - turn));
  const uint32_t lane = (static_cast<uint32_t>(__builtin_ctz(turned)) + turn) % 32;
  warp->ready &= ~(1u << lane);
  if (warp->ready == 0) running.ready_warps[warp->number / 64] &= ~(uint64_t{1} << warp->number % 64);
  return &warp->threads[lane];
}

void go_to(Thread* next, void** save) {
  current = hooked = next;
  simt_switch(save, next->sp);
}

void thread_entry() {
  running.body(running.args);
  Thread* self = current;
  check_exit(self);
  self->done = true;
  self->warp->alive &= ~(1u << self->lane);
  --self->block->alive;
  clock_exit(self);
  progress();
  if (--running.alive == 0) {
    finish_copies();
    remote_check();
    clock_end();
    current = hooked = nullptr;
    simt_switch(&self->sp, running.main_sp);
  }
  Thread* next = pick();
  go_to(next, &self->sp);
  __builtin_unreachable();
}

void start_cluster(uint32_t cluster) {
  const uint32_t per_block = running.grid.threads, size = running.grid.cluster;
  const uint32_t block_warps = (per_block + kWarpLanes - 1) / kWarpLanes;
  running.blocks = size;
  running.threads = running.alive = size * per_block;
  running.warps = size * block_warps;
  running.warp = nullptr;
  memset(running.ready_warps, 0, sizeof running.ready_warps);
  for (uint32_t rank = 0; rank < size; ++rank) {
    Block& block = blocks[rank];
    block.id = cluster * size + rank;
    block.rank = rank;
    block.alive = per_block;
    block.threads = threads + rank * per_block;
    block.slot = arena + rank * kSlotBytes;
    // NaN, so that a value that no one wrote shows.
    if (running.grid.shared > 0) memset(block.slot + kSharedStart, 0xff, running.grid.shared);
    for (uint32_t w = 0; w < block_warps; ++w) {
      Warp& warp = warps[rank * block_warps + w];
      const uint32_t lanes = std::min(kWarpLanes, per_block - w * kWarpLanes);
      warp.block = &block;
      warp.threads = block.threads + w * kWarpLanes;
      warp.number = rank * block_warps + w;
      warp.alive = warp.ready = lanes == kWarpLanes ? ~0u : (1u << lanes) - 1;
      for (Pending& pending : warp.pending) pending.name = nullptr;
      running.ready_warps[warp.number / 64] |= uint64_t{1} << warp.number % 64;
      for (uint32_t lane = 0; lane < lanes; ++lane) {
        Thread& thread = warp.threads[lane];
        thread.block = &block;
        thread.warp = &warp;
        thread.lane = lane;
        thread.index = w * kWarpLanes + lane;
        thread.number = rank * per_block + thread.index;
        thread.done = false;
        thread.sp = new_fibre(thread.number, thread_entry);
        thread.stack = stack_of(thread.number);
        thread.where = nullptr;
      }
    }
  }
  running.polls = 0;
  reset_barriers();
  reset_copies();
  clock_start();
}

bool refuse(const Grid& grid, const char* why) {
  note_report("launch", SIMT_TEXT("%s: %s (%u blocks of %u threads, %zu bytes of shared memory, clusters of %u)",
                           grid.kernel, why, grid.blocks, grid.threads, grid.shared, grid.cluster));
  return false;
}

}  // namespace

uint64_t random_bits() { return mix(random_state++); }

Mode the_mode;

Mode& mode() {
  static const bool read = [] {
    if (const char* seed = getenv("GRPO_SIMT_SEED")) the_mode.seed = strtoull(seed, nullptr, 10);
    if (const char* seconds = getenv("GRPO_SIMT_SECONDS")) the_mode.seconds = strtod(seconds, nullptr);
    if (const char* races = getenv("GRPO_SIMT_RACES")) the_mode.races = races[0] != '0';
    if (const char* copies = getenv("GRPO_SIMT_COPIES"))
      the_mode.copies = copies[0] == 'e' ? Copies::kEarly : copies[0] == 'r' ? Copies::kRandom : Copies::kLate;
    return true;
  }();
  (void)read;
  return the_mode;
}

bool run(const Grid& grid, void (*body)(const void* args), const void* args, size_t args_size) {
  const std::lock_guard<std::mutex> lock(one_grid);
  if (grid.threads == 0 || grid.threads > kMostThreads) return refuse(grid, "a block has 1 to 1024 threads");
  if (grid.shared > kMostShared) return refuse(grid, "a block has at most 227 KB of shared memory");
  if (grid.cluster == 0 || grid.cluster > kMostCluster || grid.blocks % grid.cluster != 0)
    return refuse(grid, "a cluster has 1 to 8 blocks and divides the grid");
  if (grid.blocks > 0x7fffffffu) return refuse(grid, "a grid has at most 2147483647 blocks");
  prepare_once();
  std::vector<char> copy(args_size + 16);
  char* aligned = copy.data() + (16 - reinterpret_cast<uintptr_t>(copy.data()) % 16) % 16;
  if (args_size > 0) memcpy(aligned, args, args_size);
  running.grid = grid;
  running.body = body;
  running.args = aligned;
  running.args_size = args_size;
  running.failed = false;
  random_state = mix(the_mode.seed);
  const uint32_t clusters = grid.blocks / grid.cluster;
  std::vector<uint32_t> order(clusters);
  for (uint32_t i = 0; i < clusters; ++i) order[i] = i;
  for (uint32_t i = clusters; i > 1; --i) std::swap(order[i - 1], order[random_bits() % i]);
  clock_launch();
  watchdog_start();
  for (uint32_t i = 0; i < clusters && !running.failed; ++i) {
    start_cluster(order[i]);
    go_to(pick(), &running.main_sp);
  }
  current = hooked = nullptr;
  watchdog_stop();
  running.grid.threads = 0;
  return !running.failed;
}

void block_current(const char* what, const void* where) {
  Thread* self = current;
  self->what = what;
  self->where = where;
  Thread* next = pick();
  if (next != self) go_to(next, &self->sp);
}

void make_ready(Thread* thread) {
  Warp* warp = thread->warp;
  warp->ready |= 1u << thread->lane;
  running.ready_warps[warp->number / 64] |= uint64_t{1} << warp->number % 64;
}

void yield_current(const char* what, const void* where) {
  if (++running.polls > the_mode.polls)
    fault("deadlock", SIMT_TEXT("%s waits for ever in %s at %s: no thread of its cluster gets any further, and the "
                                "blocks of a cluster run to their end before the next start",
                                who(current).c_str(), what, place(where).c_str()));
  make_ready(current);
  running.warp = nullptr;
  block_current(what, where);
}

uint32_t this_thread() { return current->index; }
uint32_t this_block() { return current->block->id; }

void fault(const char* kind, std::string message) {
  current = hooked = nullptr;
  message += SIMT_TEXT(" [%s, seed %llu]", running.grid.kernel, static_cast<unsigned long long>(the_mode.seed));
  if (running.grid.threads == 0) {
    fprintf(stderr, "simt: %s: %s: outside a grid\n", kind, message.c_str());
    abort();
  }
  note_report(kind, std::move(message));
  running.failed = true;
  clock_end();
  void* abandoned;
  simt_switch(&abandoned, running.main_sp);
  __builtin_unreachable();
}

}  // namespace simt
