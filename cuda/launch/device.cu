// Devices, memory, streams and events behind grpo_cuda_api, and the one exported symbol of this library.
#include <map>
#include <mutex>
#include <tuple>

#include "launch/operation.cuh"
#include "launch/self_test.cuh"

// Where the interpreter runs the kernels, an array of scratch space is memory of its own: it sees who leaves it.
#ifdef __CUDACC__
#define GRPO_PART_OF(whole, begin, bytes, stream) ((whole) + (begin))
#else
#define GRPO_PART_OF(whole, begin, bytes, stream) ::simt::part_of(whole, bytes, stream)
#endif

namespace grpo::cuda {

GRPO_OPERATIONS(GRPO_DECLARE)

namespace {

const grpo_operation* const kOperations[] = {GRPO_OPERATIONS(GRPO_LISTED)};
const grpo_api kOperationsApi = GRPO_API(kOperationsApi, "cuda");

thread_local std::string code;

constexpr char kNotForGraphs[] = " while the stream is captured (each launch of the graph would copy again)";

// Makes `id` the current device of this thread until the end of the scope.
struct Current {
  int previous = 0;
  explicit Current(int32_t id) {
    must(cudaGetDevice(&previous), "the current device");
    must(cudaSetDevice(id), "the choice of a device");
  }
  ~Current() { cudaSetDevice(previous); }
};

const Device& found_device(int32_t id) {
  static std::mutex mutex;
  static auto& devices = *new std::vector<Device*>;
  std::lock_guard<std::mutex> lock(mutex);
  if (devices.empty()) devices.resize(device_count(nullptr));
  if (id < 0 || id >= static_cast<int32_t>(devices.size()))
    throw Failure{cudaErrorInvalidDevice, "device " + std::to_string(id) + " of " + std::to_string(devices.size())};
  if (devices[id] != nullptr) return *devices[id];
  Current current(id);
  Device made;
  made.id = id;
  const auto attribute = [&](cudaDeviceAttr name) {
    int value = 0;
    must(cudaDeviceGetAttribute(&value, name, id), "the properties of a device");
    return value;
  };
  made.major = attribute(cudaDevAttrComputeCapabilityMajor);
  made.minor = attribute(cudaDevAttrComputeCapabilityMinor);
  made.multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
  made.shared_limit = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  cudaDeviceProp properties_of_device;
  must(cudaGetDeviceProperties(&properties_of_device, id), "the properties of a device");
  made.memory = static_cast<int64_t>(properties_of_device.totalGlobalMem);
  if (made.major < kLeastMajor)
    throw Failure{cudaErrorNoKernelImageForDevice,
                  "the use of device " + std::to_string(id) + ", of compute capability " + std::to_string(made.major) +
                      "." + std::to_string(made.minor) + " where 8.0 is needed,"};
  // Blocking: ordered with the legacy default stream, on which other libraries work unless told otherwise.
  must(cudaStreamCreate(&made.stream), "a stream");
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = id;
  must(cudaMemPoolCreate(&made.pool, &properties), "a memory pool");
  // Freed memory stays here for the next call instead of going back to the driver at each synchronise; trim() gives it.
  uint64_t all = UINT64_MAX;
  must(cudaMemPoolSetAttribute(made.pool, cudaMemPoolAttrReleaseThreshold, &all), "a memory pool");
  return *(devices[id] = new Device(made));
}

std::string bytes_text(const char* what, size_t bytes) {
  return std::string(what) + " of " + std::to_string(bytes) + " bytes";
}

std::string memory_text(int64_t bytes) {
  char text[64] = "";
  if (bytes >= 1 << 20) std::snprintf(text, sizeof text, " (%.6g MiB)", static_cast<double>(bytes) / (1 << 20));
  return bytes_text("an allocation", static_cast<size_t>(bytes)) + text;
}

// The body of each function of grpo_cuda_api, with failures turned into a status.
template <class F>
int guarded(F&& body) {
  no_cuda_failure();
  try {
    body();
    return GRPO_OK;
  } catch (const Failure& failure) {
    return cuda_failed(failure);
  }
}

// The same with a usable device, which is current.
template <class F>
int guarded(int32_t id, F&& body) {
  return guarded([&] {
    const Device& device = found_device(id);
    Current current(id);
    body(device);
  });
}

cudaStream_t stream_of(const Device& device, void* stream) {
  return stream == nullptr ? device.stream : static_cast<cudaStream_t>(stream);
}

int describe(int32_t id, grpo_device* info) {
  return guarded([&] {  // also a device that is too old to be used, beside one that is not
    cudaDeviceProp properties;
    must(cudaGetDeviceProperties(&properties, id), "the properties of a device");
    *info = {};
    std::snprintf(info->name, sizeof info->name, "%s", properties.name);
    info->major = properties.major, info->minor = properties.minor;
    info->multiprocessors = properties.multiProcessorCount;
    info->memory = static_cast<int64_t>(properties.totalGlobalMem);
  });
}

int allocate(int32_t id, size_t bytes, void* stream, void** memory) {
  return guarded(id, [&](const Device& device) {
    const cudaError_t error = cudaMallocFromPoolAsync(memory, bytes, device.pool, stream_of(device, stream));
    must(error, memory_text(static_cast<int64_t>(bytes)));
  });
}

int release(int32_t id, void* memory, void* stream) {
  return guarded(id, [&](const Device& device) {
    must(cudaFreeAsync(memory, stream_of(device, stream)), "a release");
  });
}

int trim(int32_t id) {
  return guarded(id, [](const Device& device) { must(cudaMemPoolTrimTo(device.pool, 0), "a trim of memory"); });
}

bool is_captured(cudaStream_t stream) {
  cudaStreamCaptureStatus status;
  must(cudaStreamIsCapturing(stream, &status), "the state of a stream");
  return status != cudaStreamCaptureStatusNone;
}

int upload(int32_t id, void* to, const void* from, size_t bytes, void* stream) {
  return guarded(id, [&](const Device& device) {
    const cudaStream_t on = stream_of(device, stream);
    if (is_captured(on))
      throw Failure{cudaErrorStreamCaptureUnsupported, bytes_text("an upload", bytes) + kNotForGraphs};
    if (bytes > 0) must(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, on), bytes_text("an upload", bytes));
  });
}

int download(int32_t id, void* to, const void* from, size_t bytes, void* stream) {
  return guarded(id, [&](const Device& device) {
    const cudaStream_t on = stream_of(device, stream);
    if (bytes > 0) must(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, on), bytes_text("a download", bytes));
    must(cudaStreamSynchronize(on), "the work before " + bytes_text("a download", bytes));
  });
}

int synchronize(int32_t id, void* stream) {
  return guarded(id, [&](const Device& device) {
    must(cudaStreamSynchronize(stream_of(device, stream)), "the work of a stream");
  });
}

int device_of_memory(const void* memory, int32_t* id) {
  return guarded([&] {
    cudaPointerAttributes attributes;
    must(cudaPointerGetAttributes(&attributes, memory), "the attributes of a pointer");
    *id = attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged ? attributes.device : -1;
  });
}

// CUDA before 12.8 does not say: there a stream takes the events of its own device alone.
int device_of_stream(void* stream, int32_t* id) {
  return guarded([&] {
#if CUDART_VERSION >= 12080
    must(cudaStreamGetDevice(static_cast<cudaStream_t>(stream), id), "the device of a stream");
#else
    cudaError_t error = cudaErrorInvalidResourceHandle;
    const int count = device_count(nullptr);
    for (int32_t device = 0; device < count && error == cudaErrorInvalidResourceHandle; ++device) {
      Current current(device);
      cudaEvent_t event;
      must(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event");
      error = cudaEventRecord(event, static_cast<cudaStream_t>(stream));
      cudaEventDestroy(event);
      *id = device;
    }
    must(error, "the device of a stream");
#endif
  });
}

int record_with(unsigned flags, int32_t id, void** event, void* stream) {
  return guarded(id, [&](const Device& device) {
    if (*event == nullptr) {
      cudaEvent_t made;
      must(cudaEventCreateWithFlags(&made, flags), "an event");
      *event = made;
    }
    must(cudaEventRecord(static_cast<cudaEvent_t>(*event), stream_of(device, stream)), "the record of an event");
  });
}

int record(int32_t id, void** event, void* stream) { return record_with(cudaEventDisableTiming, id, event, stream); }

int record_time(int32_t id, void** event, void* stream) { return record_with(cudaEventDefault, id, event, stream); }

int seconds_between(void* first, void* second, double* seconds) {
  return guarded([&] {
    float milliseconds = 0;
    must(cudaEventSynchronize(static_cast<cudaEvent_t>(second)), "the work before an event");
    must(cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(first), static_cast<cudaEvent_t>(second)),
         "the time between two events");
    *seconds = milliseconds / 1e3;
  });
}

int versions(int32_t* driver, int32_t* runtime) {
  return guarded([&] {
    must(cudaDriverGetVersion(driver), "the version of the driver");
    must(cudaRuntimeGetVersion(runtime), "the version of the CUDA runtime");
  });
}

int self_test(int32_t id, void (*visit)(void*, const char*, uint64_t), void* context) {
  return guarded(id, [&](const Device& device) {
    run_self_test(device.major, [&](const char* section, const uint32_t* words, int count) {
      uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
      for (int i = 0; i < count; ++i) hash = (hash ^ words[i]) * 0x100000001b3;
      visit(context, section, hash);
    });
  });
}

int wait(int32_t id, void* stream, void* event) {
  return guarded(id, [&](const Device& device) {
    must(cudaStreamWaitEvent(stream_of(device, stream), static_cast<cudaEvent_t>(event), 0), "the wait for an event");
  });
}

int wait_on_host(void* event) {
  return guarded([&] { must(cudaEventSynchronize(static_cast<cudaEvent_t>(event)), "the work before an event"); });
}

int destroy_event(void* event) {
  return guarded([&] { must(cudaEventDestroy(static_cast<cudaEvent_t>(event)), "the end of an event"); });
}

const grpo_cuda_api kApi = {
    .size = sizeof(grpo_cuda_api),
    .version = GRPO_API_VERSION,
    .operations = &kOperationsApi,
    .cuda_code = [] { return code.c_str(); },
    .device_count = device_count,
    .device = describe,
    .allocate = allocate,
    .release = release,
    .upload = upload,
    .download = download,
    .synchronize = synchronize,
    .device_of_memory = device_of_memory,
    .device_of_stream = device_of_stream,
    .record = record,
    .wait = wait,
    .wait_on_host = wait_on_host,
    .destroy_event = destroy_event,
    .trim = trim,
    .versions = versions,
    .record_time = record_time,
    .seconds_between = seconds_between,
    .self_test = self_test,
};

}  // namespace

void no_cuda_failure() { code.clear(); }

int cuda_failed(const Failure& failure) {
  code = cudaGetErrorName(failure.error);
  return fail(GRPO_CUDA, "", failure.what + " failed: " + cudaGetErrorString(failure.error) + " (" + code + ")");
}

Launch::Launch(int32_t id, cudaStream_t given)
    : device(found_device(id)), stream(given == nullptr ? device.stream : given) {
  must(cudaGetDevice(&previous_), "the current device");
  must(cudaSetDevice(id), "the choice of a device");
}

Launch::~Launch() {
  if (rehearsal_) return;
  if (scratch_ != nullptr) cudaFreeAsync(scratch_, stream);
  cudaSetDevice(previous_);
}

bool Launch::captured() const { return !rehearsal_ && is_captured(stream); }

bool Device::has_room(const void* kernel, const Shape& shape) const {
  static std::mutex mutex;
  static auto& known = *new std::map<std::tuple<int32_t, const void*, int32_t, int32_t, size_t>, bool>;
  std::lock_guard<std::mutex> lock(mutex);
  const std::tuple key{id, kernel, shape.cluster, shape.threads, shape.shared};
  if (const auto found = known.find(key); found != known.end()) return found->second;
  cudaLaunchAttribute cluster;
  const cudaLaunchConfig_t config = config_of(shape, nullptr, cluster);
  int clusters = 0;
  must(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared)),
       "the shared memory of a kernel");
  must(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config), "the room for clusters");
  return known[key] = clusters > 0;
}

constexpr int64_t kUnit = 256;  // memory is handed out in multiples of it

void Launch::reserve(int64_t bytes) {
  if (bytes == 0) return;
  void* memory = nullptr;
  const cudaError_t error = cudaMallocFromPoolAsync(&memory, static_cast<size_t>(bytes), device.pool, stream);
  if (error != cudaSuccess) must(error, "scratch space, " + memory_text(bytes));
  scratch_ = static_cast<char*>(memory);
  reserved_ = bytes;
}

void* Launch::allocate(int64_t bytes) {
  if (bytes == 0) return nullptr;
  const int64_t begin = bytes_;
  bytes_ += ceil_div(bytes, kUnit) * kUnit;
  if (rehearsal_) return reinterpret_cast<void*>(kUnit);
  if (bytes_ > reserved_) throw Failure{cudaErrorAssert, "a call that takes more scratch space than its rehearsal"};
  return GRPO_PART_OF(scratch_, begin, bytes, stream);
}

void* Launch::copy(const void* host, int64_t bytes) {
  void* memory = allocate(bytes);
  if (bytes > 0 && !rehearsal_)
    must(cudaMemcpyAsync(memory, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream),
         bytes_text("the copy of an input", static_cast<size_t>(bytes)));
  return memory;
}

int bring_inputs(const grpo_operation& operation, char* args, std::vector<DLTensor>& copies, Launch& on) {
  for (int32_t i = 0; i < operation.field_count; ++i) {
    const grpo_field& field = operation.fields[i];
    if (field.role != GRPO_INPUT) continue;
    const DLTensor* tensor;
    std::memcpy(&tensor, args + field.offset, sizeof tensor);
    if (tensor == nullptr || tensor->device.device_type != 1) continue;
    if (on.captured())
      return fail(GRPO_DEVICE, field.name,
                  "lies on the host, expected a device array: the stream is captured, and each launch of the graph "
                  "would copy from there again");
    int64_t count = 1;
    for (int32_t axis = 0; axis < tensor->ndim; ++axis) count *= tensor->shape[axis];
    copies[i] = *tensor;
    copies[i].data = on.upload(grpo::data<int32_t>(tensor), count);
    copies[i].byte_offset = 0;
    copies[i].device = {kDLCUDA, on.device.id};
    tensor = &copies[i];
    std::memcpy(args + field.offset, &tensor, sizeof tensor);
  }
  return GRPO_OK;
}

}  // namespace grpo::cuda

const grpo_cuda_api* grpo_kernels_cuda_api(uint32_t version) {
  return version <= GRPO_API_VERSION ? &grpo::cuda::kApi : nullptr;
}
