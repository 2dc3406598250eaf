// Host code with planted faults, over the simulated runtime: streams that are not ordered, memory that is used before
// or after its time, launches that a GPU refuses. Prints a line for each: "name: kind", "name: cudaError..." or
// "name: nothing"; the correct twins are called "name (right)".
#include <cstdio>
#include <string>
#include <vector>

#include "cuda/launch/ptx.cuh"

namespace {

using namespace grpo::cuda;

constexpr unsigned kThreads = 64;
constexpr size_t kBytes = kThreads * sizeof(float);

__global__ void fill_kernel(float* to, float value) { to[threadIdx.x] = value; }
__global__ void copy_kernel(float* to, const float* from) { to[threadIdx.x] = from[threadIdx.x]; }
__global__ void add_kernel(float* to) { to[threadIdx.x] += 1; }
__global__ void shared_kernel(float* to) {
  struct Large {
    float x[16384];
  };
  DYN_SMEM(Large, s);
  s.x[threadIdx.x] = 1;
  to[threadIdx.x] = s.x[threadIdx.x];
}

struct Size {
  dim3 grid = 1, block = kThreads;
  size_t shared = 0;
  unsigned cluster = 1;
};
template <class... P, class... A>
cudaError_t launch(cudaStream_t stream, Size size, void (*kernel)(P...), A... arguments) {
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = size.cluster;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = size.grid;
  config.blockDim = size.block;
  config.dynamicSmemBytes = size.shared;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = size.cluster == 1 ? 0 : 1;
  return cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...);
}

// Two streams that nothing orders, two arrays, and an event.
struct Two {
  cudaStream_t first, second;
  cudaEvent_t event;
  float *x, *y;
  Two() {
    cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking);
    cudaEventCreate(&event);
    cudaMalloc(&x, kBytes);
    cudaMalloc(&y, kBytes);
    cudaMemset(x, 0, kBytes);
    cudaMemset(y, 0, kBytes);
    cudaDeviceSynchronize();
  }
  void order() {
    cudaEventRecord(event, first);
    cudaStreamWaitEvent(second, event);
  }
  // Each stream is waited for first in turn: what shows may not depend on it.
  cudaError_t finish(bool backwards) {
    const cudaError_t one = cudaStreamSynchronize(backwards ? second : first);
    const cudaError_t other = cudaStreamSynchronize(backwards ? first : second);
    return one != cudaSuccess ? one : other;
  }
};

// ---- streams --------------------------------------------------------------------------------------------------------

cudaError_t write_then_read(bool right, bool backwards) {
  Two two;
  launch(two.first, {}, fill_kernel, two.x, 1.0f);
  if (right) two.order();
  launch(two.second, {}, copy_kernel, two.y, two.x);
  return two.finish(backwards);
}
cudaError_t read_then_write(bool right, bool backwards) {
  Two two;
  launch(two.first, {}, copy_kernel, two.y, two.x);
  if (right) two.order();
  launch(two.second, {}, fill_kernel, two.x, 1.0f);
  return two.finish(backwards);
}
cudaError_t write_then_write(bool right, bool backwards) {
  Two two;
  launch(two.first, {}, fill_kernel, two.x, 1.0f);
  if (right) two.order();
  launch(two.second, {}, fill_kernel, two.x, 2.0f);
  return two.finish(backwards);
}
// The event is recorded before the work that it should stand for.
cudaError_t event_too_early(bool right, bool backwards) {
  Two two;
  if (!right) two.order();
  launch(two.first, {}, fill_kernel, two.x, 1.0f);
  if (right) two.order();
  launch(two.second, {}, copy_kernel, two.y, two.x);
  return two.finish(backwards);
}
// Ordered through a third stream, or by the host: no fault.
cudaError_t through_a_third(bool right, bool backwards) {
  Two two;
  cudaStream_t third;
  cudaStreamCreateWithFlags(&third, cudaStreamNonBlocking);
  launch(two.first, {}, fill_kernel, two.x, 1.0f);
  cudaEventRecord(two.event, two.first);
  cudaStreamWaitEvent(third, two.event);
  launch(third, {}, add_kernel, two.x);
  cudaEvent_t after;
  cudaEventCreate(&after);
  cudaEventRecord(after, third);
  if (right) cudaStreamWaitEvent(two.second, after);
  launch(two.second, {}, copy_kernel, two.y, two.x);
  return two.finish(backwards);
}
cudaError_t host_waits(bool right, bool backwards) {
  Two two;
  launch(two.first, {}, fill_kernel, two.x, 1.0f);
  cudaStreamSynchronize(right ? two.first : two.second);
  launch(two.second, {}, copy_kernel, two.y, two.x);
  return two.finish(backwards);
}
// Blocking streams are ordered with the legacy default stream, others are not.
cudaError_t default_stream(bool right, bool backwards) {
  Two two;
  if (right) cudaStreamCreate(&two.first);
  launch(two.first, {}, fill_kernel, two.x, 1.0f);
  launch(cudaStreamLegacy, {}, copy_kernel, two.y, two.x);
  two.second = cudaStreamLegacy;
  return two.finish(backwards);
}
cudaError_t upload_then_read(bool right, bool backwards) {
  Two two;
  const std::vector<float> host(kThreads, 3.0f);
  cudaMemcpyAsync(two.x, host.data(), kBytes, cudaMemcpyHostToDevice, two.first);
  if (right) two.order();
  launch(two.second, {}, copy_kernel, two.y, two.x);
  return two.finish(backwards);
}
cudaError_t write_then_download(bool right, bool backwards) {
  Two two;
  std::vector<float> host(kThreads);
  launch(two.first, {}, fill_kernel, two.x, 1.0f);
  if (right) two.order();
  cudaMemcpyAsync(host.data(), two.x, kBytes, cudaMemcpyDeviceToHost, two.second);
  return two.finish(backwards);
}
cudaError_t fill_then_upload(bool right, bool backwards) {
  Two two;
  const std::vector<float> host(kThreads, 3.0f);
  cudaMemsetAsync(two.x, 0, kBytes, two.first);
  if (right) two.order();
  cudaMemcpyAsync(two.x, host.data(), kBytes, cudaMemcpyHostToDevice, two.second);
  return two.finish(backwards);
}

// ---- memory ---------------------------------------------------------------------------------------------------------

cudaError_t released_in_another_stream(bool right, bool backwards) {
  Two two;
  launch(two.first, {}, fill_kernel, two.x, 1.0f);
  if (right) two.order();
  cudaFreeAsync(two.x, two.second);
  return two.finish(backwards);
}
cudaError_t released_then_used(bool right, bool) {
  Two two;
  if (!right) cudaFreeAsync(two.x, two.first);
  launch(two.first, {}, add_kernel, two.x);
  if (right) cudaFreeAsync(two.x, two.first);
  return two.finish(false);
}
cudaError_t used_before_its_allocation(bool right, bool backwards) {
  Two two;
  float* made;
  cudaMallocAsync(&made, kBytes, two.first);
  if (right) two.order();
  launch(two.second, {}, fill_kernel, made, 1.0f);
  return two.finish(backwards);
}
cudaError_t released_twice(bool right, bool) {
  Two two;
  cudaFree(two.x);
  return cudaFree(right ? two.y : two.x);
}
cudaError_t copy_past_the_end(bool right, bool) {
  Two two;
  const std::vector<float> host(kThreads + 1);
  return cudaMemcpy(two.x, host.data(), kBytes + (right ? 0 : 4), cudaMemcpyHostToDevice);
}
cudaError_t fault_is_returned_once(bool right, bool) {
  Two two;
  launch(two.first, {}, fill_kernel, two.x + (right ? 0 : 1), 1.0f);
  const cudaError_t error = cudaStreamSynchronize(two.first);
  return cudaDeviceSynchronize() == cudaSuccess ? error : cudaErrorUnknown;
}

// ---- launches -------------------------------------------------------------------------------------------------------

cudaError_t launched(Size size, cudaStream_t stream = nullptr) {
  static Two& two = *new Two;
  const cudaError_t error = launch(stream, size, fill_kernel, two.x, 1.0f);
  cudaDeviceSynchronize();
  return error;
}
cudaError_t too_many_threads(bool right, bool) { return launched({.block = right ? 64u : 1025u}); }
cudaError_t no_threads(bool right, bool) { return launched({.block = right ? 64u : 0u}); }
cudaError_t no_blocks(bool right, bool) { return launched({.grid = right ? 1u : 0u}); }
cudaError_t too_many_blocks(bool right, bool) { return launched({.grid = right ? 1u : 0x80000000u}); }
cudaError_t too_many_rows(bool right, bool) { return launched({.grid = dim3(1, right ? 1 : 65536)}); }
cudaError_t block_too_deep(bool right, bool) { return launched({.block = right ? dim3(64) : dim3(1, 1, 65)}); }
cudaError_t cluster_too_large(bool right, bool) { return launched({.grid = 1, .cluster = right ? 1u : 16u}); }
cudaError_t cluster_does_not_divide(bool right, bool) { return launched({.grid = 1, .cluster = right ? 1u : 2u}); }
cudaError_t shared_not_asked_for(bool right, bool) {
  static Two& two = *new Two;
  constexpr int kLarge = 64 * 1024;
  if (right) cudaFuncSetAttribute(shared_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kLarge);
  const cudaError_t error = launch(nullptr, {.shared = kLarge}, shared_kernel, two.x);
  return error != cudaSuccess ? error : cudaDeviceSynchronize();
}
// The launch may have all that the device has, the kernel still no more than the launch gave.
cudaError_t shared_struct_too_large(bool right, bool) {
  static Two& two = *new Two;
  launch(nullptr, {.shared = right ? size_t{64 * 1024} : 1024}, shared_kernel, two.x);
  return cudaDeviceSynchronize();
}
cudaError_t more_shared_than_there_is(bool right, bool) {
  return cudaFuncSetAttribute(fill_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (right ? 227 : 228) * 1024);
}
cudaError_t stream_of_another_device(bool right, bool) {
  cudaStream_t stream;
  if (!right) cudaSetDevice(1);
  cudaStreamCreate(&stream);
  cudaSetDevice(0);
  return launched({}, stream);
}

struct Case {
  const char* name;
  cudaError_t (*body)(bool right, bool backwards);
};
#define CASE(name) {#name, name}
constexpr Case kCases[] = {
    CASE(write_then_read), CASE(read_then_write), CASE(write_then_write), CASE(event_too_early), CASE(through_a_third),
    CASE(host_waits), CASE(default_stream), CASE(upload_then_read), CASE(write_then_download), CASE(fill_then_upload),
    CASE(released_in_another_stream), CASE(released_then_used), CASE(used_before_its_allocation), CASE(released_twice),
    CASE(copy_past_the_end), CASE(fault_is_returned_once), CASE(too_many_threads), CASE(no_threads), CASE(no_blocks),
    CASE(too_many_blocks), CASE(too_many_rows), CASE(block_too_deep), CASE(cluster_too_large),
    CASE(cluster_does_not_divide), CASE(shared_not_asked_for), CASE(shared_struct_too_large),
    CASE(more_shared_than_there_is), CASE(stream_of_another_device),
};

std::string result(const Case& test, bool right, bool backwards) {
  const cudaError_t error = test.body(right, backwards);
  if (error == cudaSuccess) return "nothing";
  if (error != cudaErrorLaunchFailure) return cudaGetErrorName(error);
  const std::string text = cudaGetErrorString(error);
  return text.substr(0, text.find(':'));
}

}  // namespace

int main() {
  for (const Case& test : kCases)
    for (const bool right : {false, true}) {
      const std::string one = result(test, right, false), other = result(test, right, true);
      std::printf("%s%s: %s\n", test.name, right ? " (right)" : "", one.c_str());
      if (other != one) std::printf("%s%s, backwards: %s\n", test.name, right ? " (right)" : "", other.c_str());
    }
}
