// Simulated devices: streams of queued work, memory, events. See runtime.hpp.
//
// A unit of work knows what has to come before it; a wait runs that and nothing else. Everything stands under one
// mutex, which is also held while a grid runs.
#include "runtime.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "simt.hpp"

namespace {

constexpr int kDevices = 2, kMultiprocessors = 6;  // few: a grid of some blocks has more than one wave
constexpr size_t kShared = 48 * 1024;              // bytes that a block has without asking
constexpr int kDriver = 13000;

// ---- work -----------------------------------------------------------------------------------------------------------

struct Work;
using WorkPointer = std::shared_ptr<Work>;

struct Work {
  int device;
  std::function<void()> body;      // empty once it has run
  std::vector<WorkPointer> after;  // what comes before it
  bool done = false;
  double milliseconds = 0;  // when it was done
};

}  // namespace

struct CUstream_st {
  int device;
  bool blocking;  // ordered with the legacy default stream
  WorkPointer last;
};

struct CUevent_st {
  int device;
  bool timed;
  WorkPointer recorded;  // null: never, and waiting for it is nothing
};

struct CUmemPoolHandle_st {
  int device;
};

namespace {

struct Device {
  CUstream_st legacy{0, true, nullptr};
  std::vector<cudaStream_t> streams;
  std::vector<WorkPointer> left;  // the last work of destroyed blocking streams
  size_t used = 0;
  CUmemPoolHandle_st pool{0};
  bool failed = false;  // a grid had a fault that no wait has returned yet: grids after it do not run
};

struct Memory {
  int device;
  size_t bytes;
  bool freed = false;  // its release is queued
};

struct State {
  std::mutex mutex;
  Device devices[kDevices];
  std::map<const void*, Memory> memory;
  std::set<cudaEvent_t> events;
  std::map<std::pair<const void*, int>, int> shared_of_kernel;  // what cudaFuncSetAttribute granted on a device
  std::deque<std::string> texts;                                // of faults; never removed: callers keep the pointers
  std::string driver;
  int arch = 90;
  size_t capacity = size_t{8} << 30;

  State() {
    if (const char* text = std::getenv("GRPO_SIMT_DRIVER")) driver = text;
    if (const char* text = std::getenv("GRPO_SIMT_ARCH")) arch = std::atoi(text);
    if (const char* text = std::getenv("GRPO_SIMT_MEMORY")) capacity = std::strtoull(text, nullptr, 10);
    for (int id = 0; id < kDevices; ++id) devices[id].legacy.device = devices[id].pool.device = id;
  }
};

State& state() {
  static State& made = *new State;  // outlives every other static object
  return made;
}

thread_local int current_device = 0;
thread_local cudaError_t last_error = cudaSuccess;

cudaError_t noted(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
  return error;
}

cudaError_t driver_error() {
  const std::string& driver = state().driver;
  if (driver == "none" || driver == "old") return cudaErrorInsufficientDriver;
  if (driver == "no_device") return cudaErrorNoDevice;
  return cudaSuccess;
}

bool is_device(int id) { return id >= 0 && id < kDevices; }

// The body of a call: with a driver, under the mutex, its error remembered.
template <class F>
cudaError_t call(F&& body) {
  if (const cudaError_t error = driver_error()) return noted(error);
  const std::lock_guard<std::mutex> lock(state().mutex);
  return noted(body());
}

double now() {
  using namespace std::chrono;
  return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

// Runs `wanted` and all that comes before it, without recursion: streams may be long.
void run(const WorkPointer& wanted) {
  if (wanted == nullptr || wanted->done) return;
  std::vector<WorkPointer> stack{wanted};
  while (!stack.empty()) {
    const WorkPointer top = stack.back();
    while (!top->after.empty() && top->after.back()->done) top->after.pop_back();
    if (!top->done && !top->after.empty()) {
      stack.push_back(top->after.back());
      continue;
    }
    stack.pop_back();
    if (top->done) continue;
    top->done = true;
    if (top->body) std::exchange(top->body, nullptr)();
    top->milliseconds = now();
  }
}

void run_device(int id) {
  Device& device = state().devices[id];
  // Youngest first: nobody may rely on the order in which streams were made.
  for (size_t i = device.streams.size(); i-- > 0;) run(device.streams[i]->last);
  run(device.legacy.last);
  for (const WorkPointer& work : std::exchange(device.left, {})) run(work);
}

// What a wait on the device returns.
cudaError_t outcome(int id) {
  return std::exchange(state().devices[id].failed, false) ? cudaErrorLaunchFailure : cudaSuccess;
}

// The stream behind a handle of the current device, or null.
CUstream_st* stream_of(cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy) return &state().devices[current_device].legacy;
  for (Device& device : state().devices)
    if (std::find(device.streams.begin(), device.streams.end(), handle) != device.streams.end()) return handle;
  return nullptr;
}

WorkPointer enqueue(CUstream_st& stream, std::function<void()> body, WorkPointer also = nullptr) {
  Device& device = state().devices[stream.device];
  auto work = std::make_shared<Work>();
  work->device = stream.device;
  work->body = std::move(body);
  const auto after = [&](const WorkPointer& before) {
    if (before != nullptr && !before->done) work->after.push_back(before);
  };
  after(stream.last);
  after(also);
  if (&stream == &device.legacy) {
    for (const CUstream_st* other : device.streams)
      if (other->blocking) after(other->last);
    for (const WorkPointer& left : std::exchange(device.left, {})) after(left);
  } else if (stream.blocking) {
    after(device.legacy.last);
  }
  return stream.last = work;
}

// The work before now that a wait for the stream waits for.
WorkPointer last_of(CUstream_st& stream) {
  return &stream == &state().devices[stream.device].legacy ? enqueue(stream, nullptr) : stream.last;
}

void failed(int device, std::string text) {
  State& all = state();
  if (all.devices[device].failed) return;
  all.devices[device].failed = true;
  all.texts.push_back(std::move(text));
}

// ---- memory ---------------------------------------------------------------------------------------------------------

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

cudaError_t allocate(void** pointer, size_t bytes) {
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
  all.memory[made] = {current_device, bytes};
  *pointer = made;
  return cudaSuccess;
}

void release(void* pointer) {
  State& all = state();
  const auto found = all.memory.find(pointer);
  if (found == all.memory.end()) return;
  all.devices[found->second.device].used -= found->second.bytes;
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
    if ((to_device && memory_at(to, bytes) == nullptr) || (from_device && memory_at(from, bytes) == nullptr)) {
      failed(device, "a copy of " + std::to_string(bytes) + " bytes ran after the release of its memory");
      return;
    }
    std::memmove(to, staged != nullptr ? staged.get() : from, bytes);
    if (to_device) simt::host_wrote(to, bytes);
  });
  return cudaSuccess;
}

cudaError_t fill(void* memory, int value, size_t bytes, CUstream_st& stream) {
  if (bytes == 0) return cudaSuccess;
  if (!usable(memory, bytes)) return cudaErrorInvalidValue;
  enqueue(stream, [=, device = stream.device] {
    if (memory_at(memory, bytes) == nullptr) {
      failed(device, "a fill of " + std::to_string(bytes) + " bytes ran after the release of its memory");
      return;
    }
    std::memset(memory, value, bytes);
    simt::host_wrote(memory, bytes);
  });
  return cudaSuccess;
}

// ---- grids ----------------------------------------------------------------------------------------------------------

// Bytes that a block may have.
size_t most_shared() {
  const int arch = state().arch;
  return size_t{1024} * (arch >= 90 ? 227 : arch == 80 ? 163 : arch > 80 ? 99 : 64);
}

cudaError_t check_launch(const simt::LaunchConfig& config, const void* kernel, int device) {
  if (state().arch < 80) return cudaErrorNoKernelImageForDevice;
  const uint64_t threads = uint64_t{config.block.x} * config.block.y * config.block.z;
  if (config.grid.x == 0 || config.grid.y == 0 || config.grid.z == 0 || config.grid.x > INT32_MAX || threads == 0 ||
      threads > 1024)
    return cudaErrorInvalidConfiguration;
  // Of this simulation: kernels of this library have one axis.
  if (config.grid.y != 1 || config.grid.z != 1 || config.block.y != 1 || config.block.z != 1)
    return cudaErrorNotSupported;
  const uint64_t cluster = uint64_t{config.cluster.x} * config.cluster.y * config.cluster.z;
  if (cluster == 0 || cluster > 8 || config.cluster.y != 1 || config.cluster.z != 1 ||
      config.grid.x % config.cluster.x != 0 || (cluster > 1 && state().arch < 90))
    return cudaErrorInvalidConfiguration;
  const auto granted = state().shared_of_kernel.find({kernel, device});
  const size_t most = granted == state().shared_of_kernel.end() ? kShared : std::max<size_t>(kShared, granted->second);
  return config.shared > most ? cudaErrorInvalidValue : cudaSuccess;
}

void run_grid(const simt::LaunchConfig& config, const void* kernel, void (*body)(const void*),
              const std::vector<char>& args, int device) {
  if (state().devices[device].failed) return;
  const simt::Grid grid{"a kernel", config.grid.x, config.block.x, config.shared, config.cluster.x};
  if (simt::run(grid, body, args.data(), args.size())) return;
  std::string text;
  for (const simt::Report& report : simt::take_reports())
    text += (text.empty() ? "" : "\n") + report.kind + ": " + report.text;
  failed(device, text + "\nin the kernel at " + simt::place(static_cast<const char*>(kernel) + 1) + ", " +
                     std::to_string(config.grid.x) + " blocks of " + std::to_string(config.block.x) + " threads");
}

int blocks_of(int threads, size_t shared) {
  if (threads <= 0 || threads > 1024 || shared > most_shared()) return 0;
  const size_t by_threads = 2048 / static_cast<size_t>((threads + 31) / 32 * 32);
  return static_cast<int>(std::min({by_threads, (most_shared() + 1024) / (shared + 1024), size_t{32}}));
}

struct Named {
  cudaError_t error;
  const char *name, *text;
};
constexpr Named kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources", "too many resources requested for launch"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

const Named* named(cudaError_t error) {
  for (const Named& known : kErrors)
    if (known.error == error) return &known;
  return nullptr;
}

}  // namespace

// ---- errors, devices ------------------------------------------------------------------------------------------------

const char* cudaGetErrorName(cudaError_t error) {
  const Named* known = named(error);
  return known == nullptr ? "unrecognized error code" : known->name;
}

const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaErrorLaunchFailure) {
    const std::lock_guard<std::mutex> lock(state().mutex);
    if (!state().texts.empty()) return state().texts.back().c_str();
  }
  const Named* known = named(error);
  return known == nullptr ? "unrecognized error code" : known->text;
}

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

cudaError_t cudaDriverGetVersion(int* version) {
  const std::string& driver = state().driver;
  *version = driver == "none" ? 0 : driver == "old" ? 11040 : kDriver;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  return call([&] {
    *count = kDevices;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDevice(int* device) {
  return call([&] {
    *device = current_device;
    return cudaSuccess;
  });
}

cudaError_t cudaSetDevice(int device) {
  return call([&] {
    if (!is_device(device)) return cudaErrorInvalidDevice;
    current_device = device;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  return call([&] {
    if (!is_device(device)) return cudaErrorInvalidDevice;
    switch (attribute) {
      case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
      case cudaDevAttrMaxGridDimX: *value = INT32_MAX; break;
      case cudaDevAttrMaxSharedMemoryPerBlock: *value = kShared; break;
      case cudaDevAttrWarpSize: *value = 32; break;
      case cudaDevAttrMaxRegistersPerBlock: *value = 65536; break;
      case cudaDevAttrMultiProcessorCount: *value = kMultiprocessors; break;
      case cudaDevAttrL2CacheSize: *value = 50 << 20; break;
      case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
      case cudaDevAttrComputeCapabilityMajor: *value = state().arch / 10; break;
      case cudaDevAttrComputeCapabilityMinor: *value = state().arch % 10; break;
      case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = static_cast<int>(most_shared()) + 1024; break;
      case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(most_shared()); break;
      case cudaDevAttrMaxBlocksPerMultiprocessor: *value = 32; break;
      case cudaDevAttrReservedSharedMemoryPerBlock: *value = 1024; break;
      case cudaDevAttrMemoryPoolsSupported: *value = 1; break;
      case cudaDevAttrClusterLaunch: *value = state().arch >= 90; break;
      default: return cudaErrorInvalidValue;
    }
    return cudaSuccess;
  });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return call([&] {
    if (!is_device(device)) return cudaErrorInvalidDevice;
    *properties = {};
    std::snprintf(properties->name, sizeof properties->name, "simulated sm_%d", state().arch);
    properties->totalGlobalMem = state().capacity;
    properties->sharedMemPerBlock = kShared;
    properties->sharedMemPerBlockOptin = most_shared();
    properties->sharedMemPerMultiprocessor = most_shared() + 1024;
    properties->warpSize = 32;
    properties->maxThreadsPerBlock = 1024;
    properties->maxThreadsPerMultiProcessor = 2048;
    properties->major = state().arch / 10;
    properties->minor = state().arch % 10;
    properties->multiProcessorCount = kMultiprocessors;
    properties->l2CacheSize = 50 << 20;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceSynchronize() {
  return call([&] {
    run_device(current_device);
    return outcome(current_device);
  });
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  return call([&] {
    *total = state().capacity;
    *free = state().capacity - state().devices[current_device].used;
    return cudaSuccess;
  });
}

// ---- streams --------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return call([&] {
    if (flags > cudaStreamNonBlocking) return cudaErrorInvalidValue;
    *stream = new CUstream_st{current_device, flags == cudaStreamDefault, nullptr};
    state().devices[current_device].streams.push_back(*stream);
    return cudaSuccess;
  });
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return call([&] {
    if (stream == nullptr || stream == cudaStreamLegacy || stream_of(stream) == nullptr)
      return cudaErrorInvalidResourceHandle;
    Device& device = state().devices[stream->device];
    // Its work goes on without it. That of a stream which does not block is left to a wait for the device as well.
    if (stream->last != nullptr && !stream->last->done) device.left.push_back(stream->last);
    std::erase(device.streams, stream);
    delete stream;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return call([&] {
    CUstream_st* const known = stream_of(stream);
    if (known == nullptr) return cudaErrorInvalidResourceHandle;
    run(last_of(*known));
    return outcome(known->device);
  });
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return call([&] {
    CUstream_st* const known = stream_of(stream);
    if (known == nullptr) return cudaErrorInvalidResourceHandle;
    if (known->last == nullptr || known->last->done) return outcome(known->device);
    run(last_of(*known));
    return cudaErrorNotReady;
  });
}

cudaError_t cudaStreamGetDevice(cudaStream_t stream, int* device) {
  return call([&] {
    const CUstream_st* const known = stream_of(stream);
    if (known == nullptr) return cudaErrorInvalidResourceHandle;
    *device = known->device;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  return call([&] {
    CUstream_st* const known = stream_of(stream);
    if (known == nullptr || state().events.count(event) == 0) return cudaErrorInvalidResourceHandle;
    if (event->recorded != nullptr) enqueue(*known, nullptr, event->recorded);
    return cudaSuccess;
  });
}

// ---- events ---------------------------------------------------------------------------------------------------------

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return call([&] {
    *event = new CUevent_st{current_device, (flags & cudaEventDisableTiming) == 0, nullptr};
    state().events.insert(*event);
    return cudaSuccess;
  });
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return call([&] {
    CUstream_st* const known = stream_of(stream);
    if (known == nullptr || state().events.count(event) == 0 || event->device != known->device)
      return cudaErrorInvalidResourceHandle;
    event->recorded = enqueue(*known, nullptr);
    return cudaSuccess;
  });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return call([&] {
    if (state().events.count(event) == 0) return cudaErrorInvalidResourceHandle;
    if (event->recorded == nullptr || event->recorded->done) return outcome(event->device);
    run(event->recorded);
    return cudaErrorNotReady;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return call([&] {
    if (state().events.count(event) == 0) return cudaErrorInvalidResourceHandle;
    run(event->recorded);
    return outcome(event->device);
  });
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return call([&] {
    if (state().events.erase(event) == 0) return cudaErrorInvalidResourceHandle;
    delete event;
    return cudaSuccess;
  });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  return call([&] {
    for (const cudaEvent_t event : {start, end})
      if (state().events.count(event) == 0 || !event->timed || event->recorded == nullptr)
        return cudaErrorInvalidResourceHandle;
    if (!start->recorded->done || !end->recorded->done) return cudaErrorNotReady;
    *milliseconds = static_cast<float>(end->recorded->milliseconds - start->recorded->milliseconds);
    return cudaSuccess;
  });
}

// ---- memory ---------------------------------------------------------------------------------------------------------

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
    release(memory);
    return outcome(device);
  });
}

cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t stream) {
  return call([&] {
    const CUstream_st* const known = stream_of(stream);
    if (known == nullptr) return cudaErrorInvalidResourceHandle;
    const int previous = std::exchange(current_device, known->device);
    const cudaError_t error = allocate(memory, bytes);
    current_device = previous;
    return error;
  });
}

cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
  return call([&] {
    CUstream_st* const known = stream_of(stream);
    if (known == nullptr) return cudaErrorInvalidResourceHandle;
    if (memory == nullptr) return cudaSuccess;
    const auto found = state().memory.find(memory);
    if (found == state().memory.end() || found->second.freed) return cudaErrorInvalidValue;
    found->second.freed = true;
    enqueue(*known, [memory] { release(memory); });
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

// ---- kernels --------------------------------------------------------------------------------------------------------

namespace simt {

cudaError_t launch(const LaunchConfig& config, const void* kernel, void (*body)(const void*), const void* args,
                   size_t args_size) {
  return call([&] {
    CUstream_st* const known = stream_of(config.stream);
    if (known == nullptr || known->device != current_device) return cudaErrorInvalidResourceHandle;
    const int device = known->device;
    if (const cudaError_t error = check_launch(config, kernel, device)) return error;
    std::vector<char> copied(static_cast<const char*>(args), static_cast<const char*>(args) + args_size);
    enqueue(*known, [=, copied = std::move(copied)] { run_grid(config, kernel, body, copied, device); });
    return cudaSuccess;
  });
}

cudaError_t set_attribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  return call([&] {
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || static_cast<size_t>(value) > most_shared()) return cudaErrorInvalidValue;
    state().shared_of_kernel[{kernel, current_device}] = value;
    return cudaSuccess;
  });
}

cudaError_t get_attributes(cudaFuncAttributes* attributes, const void* kernel) {
  return call([&] {
    const auto granted = state().shared_of_kernel.find({kernel, current_device});
    *attributes = {};
    attributes->maxThreadsPerBlock = 1024;
    attributes->numRegs = 64;
    attributes->ptxVersion = attributes->binaryVersion = state().arch;
    attributes->maxDynamicSharedSizeBytes =
        granted == state().shared_of_kernel.end() ? static_cast<int>(kShared) : granted->second;
    return cudaSuccess;
  });
}

cudaError_t most_blocks(int* blocks, const void*, int threads, size_t shared) {
  return call([&] {
    *blocks = blocks_of(threads, shared);
    return threads <= 0 ? cudaErrorInvalidValue : cudaSuccess;
  });
}

cudaError_t most_clusters(int* clusters, const void* kernel, const LaunchConfig& config) {
  return call([&] {
    if (const cudaError_t error = check_launch(config, kernel, current_device)) return error;
    const int blocks = blocks_of(static_cast<int>(config.block.x), config.shared) * kMultiprocessors;
    *clusters = blocks / static_cast<int>(config.cluster.x);
    return cudaSuccess;
  });
}

}  // namespace simt
