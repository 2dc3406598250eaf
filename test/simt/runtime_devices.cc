// Errors and devices of the simulated runtime.
#include <cstdio>
#include <cstdlib>

#include "runtime_state.hpp"

using namespace simt::host;

namespace simt::host {

thread_local int current_device = 0;

namespace {

constexpr int kDriver = 13000;
thread_local cudaError_t last_error = cudaSuccess;

}  // namespace

State::State() {
  if (const char* text = std::getenv("GRPO_SIMT_DRIVER")) driver = text;
  if (const char* text = std::getenv("GRPO_SIMT_ARCH")) arch = std::atoi(text);
  if (const char* text = std::getenv("GRPO_SIMT_CLUSTER")) largest_cluster = std::atoi(text);
  if (const char* text = std::getenv("GRPO_SIMT_MULTIPROCESSORS")) multiprocessors = std::atoi(text);
  if (const char* text = std::getenv("GRPO_SIMT_MEMORY")) capacity = std::strtoull(text, nullptr, 10);
  for (int id = 0; id < kDevices; ++id) {
    devices[id].legacy.device = devices[id].pool.device = id;
    devices[id].legacy.number = static_cast<uint32_t>(id);
  }
}

State& state() {
  static State& made = *new State;  // outlives every other static object
  return made;
}

cudaError_t gone(const char* call, cudaError_t error) {
  std::fprintf(stderr, "interpreter: %s of what is gone\n", call);
  return error;
}

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

namespace {

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
    {cudaErrorAssert, "cudaErrorAssert", "device-side assert triggered"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorInvalidClusterSize, "cudaErrorInvalidClusterSize", "cluster misconfiguration"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

const Named* named(cudaError_t error) {
  for (const Named& known : kErrors)
    if (known.error == error) return &known;
  return nullptr;
}

}  // namespace

}  // namespace simt::host

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
      case cudaDevAttrMultiProcessorCount: *value = state().multiprocessors; break;
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
    properties->multiProcessorCount = state().multiprocessors;
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
