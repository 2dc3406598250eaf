// What every launcher of cuda/ uses: the GPU and the stream of a call, its scratch memory, launches, failures.
#pragma once

#ifdef __CUDACC__
#include <cuda_runtime.h>
#endif

#include <climits>
#include <cstdint>
#include <string>
#include <vector>

#include "native/interface/path.h"

namespace grpo::cuda {

// Thrown by launchers, turned into a status by entry() in operation.cuh. `what`: "launch of x_kernel", "allocation of
// 4194304 bytes".
struct Failure {
  cudaError_t error;
  std::string what;
};

inline void must(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // an error that is not sticky is taken back: the next call starts clean
  throw Failure{error, what};
}
inline void must(cudaError_t error, const char* what) {
  if (error != cudaSuccess) must(error, std::string(what));
}

struct Shape {
  int64_t blocks;  // on one axis: grid.y and grid.z stop at 65535
  int32_t threads;
  size_t shared = 0;    // bytes: sizeof the struct that the kernel names in DYN_SMEM
  int32_t cluster = 1;  // blocks per cluster
};

// One GPU, looked up once.
struct Device {
  int32_t id = 0;
  int32_t major = 0, minor = 0, multiprocessors = 0;
  int64_t shared_limit = 0;  // bytes of shared memory that one block may have
  int64_t memory = 0;        // bytes, used or not
  cudaStream_t stream = nullptr;  // the library's own
  cudaMemPool_t pool = nullptr;   // the library's own: that of the device belongs to the whole process

  // Whether one cluster of the kernel can run at all: a part of a GPU (MIG, a share of its multiprocessors) may have
  // room for none. Asked once for each kernel and shape.
  bool has_room(const void* kernel, const Shape& shape) const;
};

// `cluster` is where the configuration says how many blocks a cluster has.
inline cudaLaunchConfig_t config_of(const Shape& shape, cudaStream_t stream, cudaLaunchAttribute& cluster) {
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = static_cast<unsigned>(shape.cluster);
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = shape.shared;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = shape.cluster > 1 ? 1 : 0;
  return config;
}

// A call on its way to a stream. What scratch() returns lives until the work enqueued so far is done.
//
// A rehearsal of a call goes through the same code with pointers that nobody reads: it enqueues nothing, and bytes() is
// what the call would take. So all scratch space of a call is one allocation, reserve(), out of which it is handed. One
// that is given a path is told there which of several kernels would run, and why not a faster one.
class Launch {
 public:
  Launch(int32_t id, cudaStream_t given);
  struct Rehearsal {
    Path* path;  // may be null
  };
  Launch(const Launch& call, Rehearsal of)
      : device(call.device), stream(call.stream), rehearsal_(true), path_(of.path) {}
  ~Launch();
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  const Device& device;
  const cudaStream_t stream;

  // Before the first scratch(): bytes() of a rehearsal.
  void reserve(int64_t bytes);

  // Uninitialised device memory, 256-byte aligned.
  template <class T>
  T* scratch(int64_t count) {
    return static_cast<T*>(allocate(count * int64_t{sizeof(T)}));
  }
  // Whether what is enqueued becomes part of a graph.
  bool captured() const;

  // A copy in device memory of what lies on the host, which may change as soon as this returns. Not for a graph: each
  // of its launches would copy again, from where the host's lay.
  template <class T>
  T* upload(const T* host, int64_t count) {
    return static_cast<T*>(copy(host, count * int64_t{sizeof(T)}));
  }
  void zero(void* memory, int64_t bytes) {
    if (bytes > 0 && !rehearsal_) must(cudaMemsetAsync(memory, 0, bytes, stream), "a fill with zeros");
  }

  // Of scratch space so far.
  int64_t bytes() const { return bytes_; }

  // Beside the launch of a kernel that is not the only one of its kind; and where the code turns away from a faster one.
  void runs(const char* kernel) {
    if (path_ != nullptr) path_->runs(kernel);
  }
  void because(const char* reason) {
    if (path_ != nullptr) path_->because(reason);
  }

  // Enqueues kernel(arguments...); no blocks, no launch.
  template <class... P, class... A>
  void operator()(void (*kernel)(P...), const Shape& shape, A&&... arguments) {
    if (shape.blocks == 0 || rehearsal_) return;
    if (shape.blocks > INT_MAX) throw Failure{cudaErrorInvalidConfiguration, "a launch of more than 2147483647 blocks"};
    if (shape.shared > 48 * 1024)
      must(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared)),
           "the shared memory of a kernel");
    cudaLaunchAttribute cluster;
    const cudaLaunchConfig_t config = config_of(shape, stream, cluster);
    must(cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...), "a launch");
  }

 private:
  void* allocate(int64_t bytes);
  void* copy(const void* host, int64_t bytes);
  const bool rehearsal_ = false;
  Path* const path_ = nullptr;
  int32_t previous_ = 0;
  int64_t bytes_ = 0, reserved_ = 0;
  char* scratch_ = nullptr;
};

__host__ __device__ constexpr int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }

}  // namespace grpo::cuda
