// How many GPUs there are, and why none can be used.
#include "launch/operation.cuh"

namespace grpo::cuda {
namespace {

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// Why no device can be used; empty if one can.
std::string why_none(int& count) {
  int driver = 0;
  count = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
    return "no NVIDIA driver is installed: a GPU needs one for CUDA " + version_text(CUDART_VERSION) + " or newer";
  const cudaError_t error = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (error == cudaErrorInsufficientDriver)
    return "the NVIDIA driver is too old: it is one for CUDA " + version_text(driver) + ", needed is one for CUDA " +
           version_text(CUDART_VERSION);
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) return "the NVIDIA driver finds no GPU";
  if (error != cudaSuccess) return std::string("the GPUs cannot be listed: ") + cudaGetErrorString(error);
  std::string found;
  for (int id = 0; id < count; ++id) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, id) != cudaSuccess) continue;
    if (properties.major >= kLeastMajor) return "";
    found += std::string(found.empty() ? "" : ", ") + properties.name + " has " + std::to_string(properties.major) +
             "." + std::to_string(properties.minor);
  }
  count = 0;
  return "no GPU has the compute capability 8.0 or newer that is needed: " + found;
}

}  // namespace

int32_t device_count(const char** reason) {
  struct Found {
    int count;
    std::string reason;
  };
  static const Found& found = *[] {
    auto* made = new Found;
    made->reason = why_none(made->count);
    if (!made->reason.empty()) made->count = 0;
    return made;
  }();
  if (reason != nullptr) *reason = found.reason.c_str();
  return found.count;
}

}  // namespace grpo::cuda
