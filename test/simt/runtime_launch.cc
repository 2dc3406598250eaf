// Launches of the simulated runtime: what CUDA refuses, and the grid's run.
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <set>
#include <tuple>

#include "runtime_state.hpp"

using namespace simt::host;

// Bytes that a block may have.
size_t simt::host::most_shared() {
  const int arch = state().arch;
  return size_t{1024} * (arch >= 90 ? 227 : arch == 80 ? 163 : arch > 80 ? 99 : 64);
}

namespace {

cudaError_t check_launch(const simt::LaunchConfig& config, const void* kernel, int device) {
  if (state().arch < 80) return cudaErrorNoKernelImageForDevice;
  const auto too_large = [](const dim3& size, uint64_t x, uint64_t y, uint64_t z) {
    return size.x == 0 || size.y == 0 || size.z == 0 || size.x > x || size.y > y || size.z > z;
  };
  const uint64_t threads = uint64_t{config.block.x} * config.block.y * config.block.z;
  if (too_large(config.grid, INT32_MAX, 65535, 65535) || too_large(config.block, 1024, 1024, 64) || threads > 1024)
    return cudaErrorInvalidConfiguration;
  // Of this simulation: kernels of this library have one axis.
  if (config.grid.y != 1 || config.grid.z != 1 || config.block.y != 1 || config.block.z != 1)
    return cudaErrorNotSupported;
  const uint64_t cluster = uint64_t{config.cluster.x} * config.cluster.y * config.cluster.z;
  if (cluster != 1 && state().arch < 90) return cudaErrorInvalidConfiguration;
  const auto largest = static_cast<uint64_t>(state().largest_cluster);
  if (cluster == 0 || cluster > largest || config.grid.x % config.cluster.x != 0 || config.cluster.y != 1 ||
      config.cluster.z != 1)
    return cudaErrorInvalidClusterSize;
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

// GRPO_SIMT_LAUNCHES names a file: a line for each kernel and shape of a block, "moments.cu:18 256 192 1" with threads,
// bytes of shared memory and blocks of a cluster.
void note(const simt::LaunchConfig& config, const void* kernel) {
  const char* const path = std::getenv("GRPO_SIMT_LAUNCHES");
  if (path == nullptr) return;
  static std::set<std::tuple<const void*, unsigned, size_t, unsigned>> known;
  if (!known.emplace(kernel, config.block.x, config.shared, config.cluster.x).second) return;
  std::ofstream(path, std::ios::app) << simt::place(static_cast<const char*>(kernel) + 1) + " " +
                                            std::to_string(config.block.x) + " " + std::to_string(config.shared) + " " +
                                            std::to_string(config.cluster.x) + "\n";
}

int blocks_of(int threads, size_t shared) {
  if (threads <= 0 || threads > 1024 || shared > most_shared()) return 0;
  const size_t by_threads = 2048 / static_cast<size_t>((threads + 31) / 32 * 32);
  return static_cast<int>(std::min({by_threads, (most_shared() + 1024) / (shared + 1024), size_t{32}}));
}

}  // namespace

namespace simt {

cudaError_t launch(const LaunchConfig& config, const void* kernel, void (*body)(const void*), const void* args,
                   size_t args_size) {
  return call([&] {
    CUstream_st* const known = stream_of(config.stream);
    if (known == nullptr || known->device != current_device) return cudaErrorInvalidResourceHandle;
    const int device = known->device;
    if (const cudaError_t error = check_launch(config, kernel, device)) return error;
    note(config, kernel);
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
    *clusters = 0;
    if (config.cluster.x > static_cast<unsigned>(state().largest_cluster)) return cudaSuccess;
    if (const cudaError_t error = check_launch(config, kernel, current_device)) return error;
    const int blocks = blocks_of(static_cast<int>(config.block.x), config.shared) * state().multiprocessors;
    *clusters = blocks / static_cast<int>(config.cluster.x);
    return cudaSuccess;
  });
}

}  // namespace simt
