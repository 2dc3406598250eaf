// Device allocations, the bounds of every access, and what kernels ask about their place in the grid.
#include "memory.hpp"

#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>

#include "clock.hpp"
#include "device.hpp"
#include "shadow.hpp"

namespace simt {

namespace {

constexpr size_t kPadding = 256;
constexpr int kUnwritten = 0xcb;
// From this size on an allocation takes only the pages that something touches, so that offsets beyond 2^32 can be tried.
constexpr size_t kSparse = size_t{64} << 20;
constexpr size_t kChunk = size_t{8} << 20;

std::mutex allocations_mutex;
Allocation** allocations = nullptr;  // by address
size_t allocation_count = 0, allocation_room = 0;

// The allocation that each place in a kernel touched last: it mostly touches the same one again.
struct Recent {
  const char* begin;
  const char* end;
  Allocation* allocation;
};
constexpr size_t kRecent = 256;
Recent recent[kRecent];

// Released memory keeps its address for a while, so that who still uses it does not meet another allocation there.
struct Freed {
  const char *begin, *end;
};
constexpr size_t kMostFreed = 256, kMostFreedBytes = size_t{64} << 20;
std::deque<Freed> freed;
size_t freed_bytes = 0;

char* image_begin = nullptr;
char* image_end = nullptr;

int find_image(dl_phdr_info* info, size_t, void*) {
  char* begin = nullptr;
  char* end = nullptr;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& header = info->dlpi_phdr[i];
    if (header.p_type != PT_LOAD) continue;
    char* from = reinterpret_cast<char*>(info->dlpi_addr + header.p_vaddr);
    if (begin == nullptr || from < begin) begin = from;
    end = std::max(end, from + header.p_memsz);
  }
  if (reinterpret_cast<char*>(&image_begin) < begin || reinterpret_cast<char*>(&image_begin) >= end) return 0;
  image_begin = begin;
  image_end = end;
  return 1;
}

Allocation* search(const char* at) {
  Allocation** end = allocations + allocation_count;
  Allocation** after =
      std::upper_bound(allocations, end, at, [](const char* x, const Allocation* a) { return x < a->begin; });
  return after == allocations ? nullptr : after[-1];
}

const char* name_of(Access kind) {
  return kind == Access::kRead ? "reads" : kind == Access::kWrite ? "writes" : "changes";
}

[[noreturn]] void out_of_shared(Thread* thread, const char* at, size_t bytes, Access kind, const void* where) {
  const size_t rank = static_cast<size_t>(at - arena) / kSlotBytes;
  const long offset = static_cast<long>(static_cast<size_t>(at - arena) % kSlotBytes) - static_cast<long>(kSharedStart);
  hooked = nullptr;
  fault("shared out of bounds",
        SIMT_TEXT("%s %s %zu bytes at offset %ld of the %zu bytes of shared memory of rank %zu, at %s",
                  who(thread).c_str(), name_of(kind), bytes, offset, running.grid.shared, rank, place(where).c_str()));
}

[[noreturn]] void out_of_global(Thread* thread, const char* at, size_t bytes, Access kind, const void* where) {
  hooked = nullptr;
  for (const Freed& past : freed)
    if (at >= past.begin && at < past.end)
      fault("use after free", SIMT_TEXT("%s %s %zu bytes at byte %td of an allocation of %td that was released, at %s",
                                        who(thread).c_str(), name_of(kind), bytes, at - past.begin,
                                        past.end - past.begin, place(where).c_str()));
  std::string near = "in no allocation";
  long best = 1 << 20;
  for (size_t i = 0; i < allocation_count; ++i) {
    const Allocation& a = *allocations[i];
    const long past = at - a.end, before = a.begin - at;
    const long distance = past >= 0 ? past : before > 0 ? before : 0;
    if (distance >= best) continue;
    best = distance;
    near = before > 0 ? SIMT_TEXT("%ld bytes before an allocation of %td", before, a.end - a.begin)
                      : SIMT_TEXT("at byte %td of an allocation of %td", at - a.begin, a.end - a.begin);
  }
  fault("global out of bounds", SIMT_TEXT("%s %s %zu bytes %s, at %s", who(thread).c_str(), name_of(kind), bytes,
                                          near.c_str(), place(where).c_str()));
}

// A file of kUnwritten, of which every chunk of a sparse allocation is a copy on write.
int unwritten_file() {
  static const int file = [] {
    const int made = memfd_create("simt", MFD_CLOEXEC);
    const std::string text(kChunk, static_cast<char>(kUnwritten));
    return write(made, text.data(), kChunk) == static_cast<ssize_t>(kChunk) ? made : -1;
  }();
  return file;
}

// Of so many bytes, the padding on both sides among them.
char* obtain(size_t bytes) {
  if (bytes < kSparse) {
    void* memory = std::aligned_alloc(256, bytes);
    if (memory != nullptr) memset(memory, kUnwritten, bytes);
    return static_cast<char*>(memory);
  }
  constexpr int kFlags = MAP_PRIVATE | MAP_NORESERVE;
  auto* memory = static_cast<char*>(mmap(nullptr, bytes, PROT_NONE, kFlags | MAP_ANONYMOUS, -1, 0));
  bool made = memory != MAP_FAILED;
  for (size_t at = 0; made && at < bytes; at += kChunk)
    made = mmap(memory + at, std::min(kChunk, bytes - at), PROT_READ | PROT_WRITE, kFlags | MAP_FIXED, unwritten_file(),
                0) != MAP_FAILED;
  return made ? memory : nullptr;
}

void give_back(char* memory, size_t bytes) {
  if (bytes >= kSparse) munmap(memory, bytes);
  else std::free(memory);
}

size_t with_padding(size_t bytes) { return (std::max<size_t>(bytes, 1) + 255) / 256 * 256 + 2 * kPadding; }

}  // namespace

void* allocate(size_t bytes) {
  const std::lock_guard<std::mutex> lock(allocations_mutex);
  char* memory = obtain(with_padding(bytes));
  if (memory == nullptr) return nullptr;
  auto* made = static_cast<Allocation*>(std::calloc(1, sizeof(Allocation)));
  made->begin = memory + kPadding;
  made->end = made->begin + bytes;
  if (allocation_count == allocation_room) {
    allocation_room = std::max<size_t>(64, allocation_room * 2);
    allocations = static_cast<Allocation**>(std::realloc(allocations, allocation_room * sizeof(Allocation*)));
  }
  size_t at = allocation_count++;
  for (; at > 0 && allocations[at - 1]->begin > made->begin; --at) allocations[at] = allocations[at - 1];
  allocations[at] = made;
  return made->begin;
}

bool release(void* pointer) {
  const std::lock_guard<std::mutex> lock(allocations_mutex);
  Allocation* found = search(static_cast<char*>(pointer));
  if (found == nullptr || found->begin != pointer) return false;
  const size_t at = static_cast<size_t>(
      std::lower_bound(allocations, allocations + allocation_count, found,
                       [](const Allocation* a, const Allocation* b) { return a->begin < b->begin; }) -
      allocations);
  std::copy(allocations + at + 1, allocations + allocation_count, allocations + at);
  --allocation_count;
  memset(recent, 0, sizeof recent);
  drop_shadow(found);
  forget_touches(found->begin, found->end);
  const size_t bytes = static_cast<size_t>(found->end - found->begin);
  // Whoever still reads it gets no plausible number. A sparse one goes back at once: it is larger than what is kept.
  if (with_padding(bytes) < kSparse) memset(pointer, kUnwritten, bytes);
  freed.push_back({found->begin, found->end});
  freed_bytes += bytes;
  std::free(found);
  while (freed.size() > kMostFreed || (freed_bytes > kMostFreedBytes && !freed.empty())) {
    const Freed oldest = freed.front();
    freed.pop_front();
    const size_t size = static_cast<size_t>(oldest.end - oldest.begin);
    freed_bytes -= size;
    give_back(const_cast<char*>(oldest.begin) - kPadding, with_padding(size));
  }
  return true;
}

Allocation* allocation_at(const char* address) {
  Allocation* found = search(address);
  return found != nullptr && address < found->end ? found : nullptr;
}

const void* allocation_of(const void* pointer, size_t bytes) {
  const std::lock_guard<std::mutex> lock(allocations_mutex);
  const char* at = static_cast<const char*>(pointer);
  const Allocation* found = search(at);
  return found != nullptr && at + bytes <= found->end ? found->begin : nullptr;
}

void host_wrote(void* pointer, size_t bytes) {
  const std::lock_guard<std::mutex> lock(allocations_mutex);
  Allocation* found = search(static_cast<char*>(pointer));
  if (found != nullptr) shadow_host_wrote(found, static_cast<char*>(pointer), bytes);
}

void must_be_shared(Thread* thread, const void* address, size_t bytes, Access kind, const void* where) {
  const char* at = static_cast<const char*>(address);
  const size_t in_arena = static_cast<size_t>(at - arena);
  const size_t rank = in_arena / kSlotBytes, offset = in_arena % kSlotBytes;
  if (rank >= running.blocks || offset < kSharedStart || offset + bytes > kSharedStart + running.grid.shared)
    out_of_shared(thread, at, bytes, kind, where);
}

void must_be_global(const void* address, const char* what, const void* where) {
  const char* at = static_cast<const char*>(address);
  if (static_cast<size_t>(at - arena) < kMostCluster * kSlotBytes || on_stack(at))
    fault("not global memory", SIMT_TEXT("%s: %s takes an address of global memory only, at %s", who(current).c_str(),
                                         what, place(where).c_str()));
}

void access(Thread* thread, const void* address, size_t bytes, Access kind, const void* where) {
  const char* at = static_cast<const char*>(address);
  if (on_stack(at)) {
    if (on_own_stack(thread, at)) return;
    fault("another thread's local memory", SIMT_TEXT("%s %s %zu bytes, at %s", who(thread).c_str(), name_of(kind), bytes,
                                                     place(where).c_str()));
  }
  const size_t in_arena = static_cast<size_t>(at - arena);
  if (in_arena < kMostCluster * kSlotBytes) {
    const size_t rank = in_arena / kSlotBytes, offset = in_arena % kSlotBytes;
    must_be_shared(thread, address, bytes, kind, where);
    if (the_mode.races)
      shadow_shared(thread, static_cast<uint32_t>(rank), static_cast<uint32_t>(offset), bytes, kind, where);
    return;
  }
  Recent& last = recent[(reinterpret_cast<uintptr_t>(where) * 0x9e3779b97f4a7c15u) >> 56];
  if (at < last.begin || at + bytes > last.end) {
    if (at >= image_begin && at < image_end) {
      if (kind == Access::kRead) return;  // constants
      fault("host memory", SIMT_TEXT("%s %s a variable of the host at %s", who(thread).c_str(), name_of(kind),
                                     place(where).c_str()));
    }
    const char* args = static_cast<const char*>(running.args);
    if (at >= args && at + bytes <= args + running.args_size && kind == Access::kRead) return;
    if (image_begin == nullptr) {
      dl_iterate_phdr(find_image, nullptr);
      return access(thread, address, bytes, kind, where);
    }
    Allocation* found = search(at);
    if (found == nullptr || at + bytes > found->end) out_of_global(thread, at, bytes, kind, where);
    last = {found->begin, found->end, found};
  }
  if (the_mode.races) shadow_global(thread, last.allocation, at, bytes, kind, where);
}

void on_read(const void* address, size_t bytes, uint32_t thread, const void* where) {
  access(current->block->threads + thread, address, bytes, Access::kRead, where);
}
void on_write(void* address, size_t bytes, uint32_t thread, const void* where) {
  access(current->block->threads + thread, address, bytes, Access::kWrite, where);
}
void on_atomic(void* address, size_t bytes, const void* where) {
  if (current == nullptr) return;
  constexpr uint32_t kMostAtomics = 1000;  // who asks again and again with one has to let others run
  if (++running.atomics > kMostAtomics) yield_current("an atomic", where);
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0)
    fault("misaligned", SIMT_TEXT("%s: an atomic of %zu bytes at %p, at %s", who(current).c_str(), bytes, address,
                                  place(where).c_str()));
  access(current, address, bytes, Access::kAtomic, where);
}

// ---- what kernels ask about their place -----------------------------------------------------------------------------

uint32_t thread_index() { return current->index; }
uint32_t block_index() { return current->block->id; }
uint32_t block_threads() { return running.grid.threads; }
uint32_t grid_blocks() { return running.grid.blocks; }

void* shared_memory(size_t bytes, size_t alignment) {
  if (bytes > running.grid.shared)
    fault("shared out of bounds", SIMT_TEXT("the kernel's shared memory is a struct of %zu bytes, the launch gave %zu",
                                            bytes, running.grid.shared));
  if (alignment > kSharedStart) fault("not simulated", SIMT_TEXT("shared memory aligned to %zu", alignment));
  return current->block->slot + kSharedStart;
}

uint32_t shared_address(const void* shared) {
  const size_t in_arena = static_cast<size_t>(static_cast<const char*>(shared) - arena);
  if (in_arena >= kMostCluster * kSlotBytes)
    fault("shared out of bounds", SIMT_TEXT("%s: %p is no shared memory, at %s", who(current).c_str(), shared,
                                            place(SIMT_CALLER).c_str()));
  return static_cast<uint32_t>(in_arena % kSlotBytes);
}

void* map_shared(const void* own, uint32_t rank) {
  const size_t in_arena = static_cast<size_t>(static_cast<const char*>(own) - arena);
  if (in_arena >= kMostCluster * kSlotBytes || rank >= running.blocks)
    fault("shared out of bounds", SIMT_TEXT("%s: rank %u of a cluster of %u, %p, at %s", who(current).c_str(), rank,
                                            running.blocks, own, place(SIMT_CALLER).c_str()));
  return arena + rank * kSlotBytes + in_arena % kSlotBytes;
}

}  // namespace simt
