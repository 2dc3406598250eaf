// Streams for tests in JavaScript, which has no cudaStreamCreate:
//
//   GRPO_SIMT_STREAMS   how many to make on each device when this library is loaded
//   GRPO_SIMT_CAPTURED  which of them is captured, from 0
//
// They are not ordered with the legacy default stream, and so with no other stream but through events. Their addresses
// come back in the environment: GRPO_SIMT_STREAM_0_1 is the second stream of device 0.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "runtime.hpp"

namespace {

[[gnu::constructor]] void make_streams() {
  const char* const wanted = std::getenv("GRPO_SIMT_STREAMS");
  int devices = 0;
  if (wanted == nullptr || cudaGetDeviceCount(&devices) != cudaSuccess) return;
  for (int device = 0; device < devices; ++device) {
    cudaSetDevice(device);
    for (int i = 0; i < std::atoi(wanted); ++i) {
      cudaStream_t stream = nullptr;
      if (cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess) continue;
      const char* const captured = std::getenv("GRPO_SIMT_CAPTURED");
      if (captured != nullptr && std::atoi(captured) == i) cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
      const std::string name = "GRPO_SIMT_STREAM_" + std::to_string(device) + "_" + std::to_string(i);
      setenv(name.c_str(), std::to_string(reinterpret_cast<uintptr_t>(stream)).c_str(), 1);
    }
  }
  cudaSetDevice(0);
}

}  // namespace
