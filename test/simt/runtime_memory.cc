// Memory of the simulated runtime: allocations, copies, fills, in the order of streams.
#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "runtime_state.hpp"

using namespace simt::host;

namespace {

// The allocation that holds all the bytes and is not freed, or null.
Memory* memory_at(const void* pointer, size_t bytes) {
  const void* base = simt::allocation_of(pointer, bytes);
  const auto found = state().memory.find(base);
  return base == nullptr || found == state().memory.end() ? nullptr : &found->second;
}
bool usable(const void* pointer, size_t bytes) {
  const Memory* memory = memory_at(pointer, bytes);
  return memory != nullptr && !memory->freed;
}

cudaError_t allocate(void** pointer, size_t bytes, cudaMemPool_t pool = nullptr) {
  State& all = state();
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  Device& device = all.devices[current_device];
  const auto full = [&] { return bytes > all.capacity || device.used > all.capacity - bytes; };
  if (full()) run_device(current_device);  // queued releases
  if (full()) return cudaErrorMemoryAllocation;
  void* made = simt::allocate(bytes);
  if (made == nullptr) return cudaErrorMemoryAllocation;
  device.used += bytes;
  all.memory[made] = {.device = current_device, .bytes = bytes, .pool = pool};
  if (pool != nullptr) pool->held = std::max(pool->held, pool->used += bytes);
  *pointer = made;
  return cudaSuccess;
}

// A copy, a fill or a release is about to touch [memory, memory + bytes) for a stream: whether it may.
bool may_touch(int device, const std::string& what, const void* memory, size_t bytes, bool writes) {
  const char* const does = writes ? " changes" : " reads";
  if (memory_at(memory, bytes) == nullptr) {
    failed(device, "use after free: " + what + does + " memory that was released before");
    return false;
  }
  const std::string other = simt::touch(memory, bytes, writes);
  if (!other.empty()) failed(device, "race between streams: " + what + does + " " + other);
  return other.empty();
}

void release(void* pointer, int device) {
  State& all = state();
  const auto found = all.memory.find(pointer);
  if (found == all.memory.end()) return;
  const size_t size = found->second.bytes;
  may_touch(device, "the release of " + std::to_string(size) + " bytes", pointer, size, true);
  for (void* part : std::exchange(found->second.parts, {})) release(part, device);
  if (!found->second.is_part) all.devices[found->second.device].used -= size;
  if (found->second.pool != nullptr) found->second.pool->used -= size;
  all.memory.erase(found);
  simt::release(pointer);
}

cudaError_t copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, CUstream_st& stream) {
  if (bytes == 0) return cudaSuccess;
  if (to == nullptr || from == nullptr) return cudaErrorInvalidValue;
  if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) return cudaErrorInvalidMemcpyDirection;
  bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind == cudaMemcpyDefault) to_device = memory_at(to, 1) != nullptr, from_device = memory_at(from, 1) != nullptr;
  if (to_device && !usable(to, bytes)) return cudaErrorInvalidValue;
  if (from_device && !usable(from, bytes)) return cudaErrorInvalidValue;
  // Pageable host memory is read at the call.
  std::shared_ptr<char[]> staged;
  if (!from_device) {
    staged.reset(new char[bytes]);
    std::memcpy(staged.get(), from, bytes);
  }
  enqueue(stream, [=, device = stream.device] {
    const std::string what = "a copy of " + std::to_string(bytes) + " bytes";
    if (from_device && !may_touch(device, what, from, bytes, false)) return;
    if (to_device && !may_touch(device, what, to, bytes, true)) return;
    std::memmove(to, staged != nullptr ? staged.get() : from, bytes);
    if (to_device) simt::host_wrote(to, bytes);
  });
  return cudaSuccess;
}

cudaError_t fill(void* memory, int value, size_t bytes, CUstream_st& stream) {
  if (bytes == 0) return cudaSuccess;
  if (!usable(memory, bytes)) return cudaErrorInvalidValue;
  enqueue(stream, [=, device = stream.device] {
    if (!may_touch(device, "a fill of " + std::to_string(bytes) + " bytes", memory, bytes, true)) return;
    std::memset(memory, value, bytes);
    simt::host_wrote(memory, bytes);
  });
  return cudaSuccess;
}

}  // namespace

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  return call([&] { return allocate(memory, bytes); });
}

cudaError_t cudaFree(void* memory) {
  return call([&] {
    if (memory == nullptr) return cudaSuccess;
    const auto found = state().memory.find(memory);
    if (found == state().memory.end() || found->second.freed) return cudaErrorInvalidValue;
    const int device = found->second.device;
    run_device(device);
    release(memory, device);
    return outcome(device);
  });
}

cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t stream) {
  return cudaMallocFromPoolAsync(memory, bytes, nullptr, stream);
}

cudaError_t cudaMallocFromPoolAsync(void** memory, size_t bytes, cudaMemPool_t pool, cudaStream_t stream) {
  return call([&] {
    CUstream_st* const known = stream_of(stream);
    if (known == nullptr || (pool != nullptr && pool->device != known->device)) return cudaErrorInvalidResourceHandle;
    const int previous = std::exchange(current_device, known->device);
    const cudaError_t error = allocate(memory, bytes, pool);
    current_device = previous;
    if (*memory != nullptr) happens_now(*known, [&] { simt::touch(*memory, bytes, true); });
    return error;
  });
}

cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
  return call([&] {
    CUstream_st* const known = stream_of(stream);
    if (known == nullptr) return cudaErrorInvalidResourceHandle;
    if (memory == nullptr) return cudaSuccess;
    const auto found = state().memory.find(memory);
    if (found == state().memory.end() || found->second.freed) return gone("cudaFreeAsync", cudaErrorInvalidValue);
    found->second.freed = true;
    for (void* part : found->second.parts) state().memory.at(part).freed = true;
    enqueue(*known, [memory, device = known->device] { release(memory, device); });
    return cudaSuccess;
  });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return call([&] {
    CUstream_st* const known = stream_of(stream);
    return known == nullptr ? cudaErrorInvalidResourceHandle : copy(to, from, bytes, kind, *known);
  });
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return call([&] {
    CUstream_st& legacy = state().devices[current_device].legacy;
    if (const cudaError_t error = copy(to, from, bytes, kind, legacy)) return error;
    run(last_of(legacy));
    return outcome(current_device);
  });
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  return call([&] {
    CUstream_st* const known = stream_of(stream);
    return known == nullptr ? cudaErrorInvalidResourceHandle : fill(memory, value, bytes, *known);
  });
}

cudaError_t cudaMemset(void* memory, int value, size_t bytes) { return cudaMemsetAsync(memory, value, bytes, nullptr); }

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  return call([&] {
    const Memory* memory = memory_at(pointer, 1);
    void* const as_given = const_cast<void*>(pointer);
    if (memory != nullptr && !memory->freed) *attributes = {cudaMemoryTypeDevice, memory->device, as_given, nullptr};
    else *attributes = {cudaMemoryTypeUnregistered, -2, nullptr, as_given};
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  return call([&] {
    if (!is_device(device)) return cudaErrorInvalidDevice;
    *pool = &state().devices[device].pool;
    return cudaSuccess;
  });
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
  return call([&] {
    if (properties->allocType != cudaMemAllocationTypePinned || !is_device(properties->location.id))
      return cudaErrorInvalidValue;
    *pool = new CUmemPoolHandle_st{properties->location.id};
    return cudaSuccess;
  });
}

// GRPO_SIMT_TRIMS names a file that gets a line for each: device, bytes held before and after.
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t kept) {
  return call([&] {
    if (pool == nullptr) return cudaErrorInvalidValue;
    const size_t before = pool->held;
    pool->held = std::min(pool->held, std::max(pool->used, kept));
    if (const char* path = std::getenv("GRPO_SIMT_TRIMS"))
      if (std::FILE* file = std::fopen(path, "a")) {
        std::fprintf(file, "%d %zu %zu\n", pool->device, before, pool->held);
        std::fclose(file);
      }
    return cudaSuccess;
  });
}

void* simt::part_of(void* allocation, size_t bytes, cudaStream_t stream) {
  void* part = nullptr;
  call([&] {
    Memory& whole = state().memory.at(allocation);
    part = simt::allocate(bytes);
    if (part == nullptr) return cudaErrorMemoryAllocation;
    whole.parts.push_back(part);
    state().memory[part] = {.device = whole.device, .bytes = bytes, .is_part = true};
    happens_now(*stream_of(stream), [&] { simt::touch(part, bytes, true); });
    return cudaSuccess;
  });
  return part;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr, void* value) {
  return call([&] { return pool == nullptr || value == nullptr ? cudaErrorInvalidValue : cudaSuccess; });
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  return call([&] {
    if (pool == nullptr || value == nullptr) return cudaErrorInvalidValue;
    const uint64_t result = attribute == cudaMemPoolAttrReleaseThreshold ? 0 : state().devices[pool->device].used;
    std::memcpy(value, &result, sizeof result);
    return cudaSuccess;
  });
}
