// The self-test of cuda/launch/ptx.cuh as a program: built for GPUs as build-cuda/self_test, for the interpreter as
// build-simt/self_test. Prints a line for the device and one per word: "convert 3 3f80bc00" is word 3 of that section.
// What the device is too old for is left out.
#include <cstdio>

#include "launch/self_test.cu"

int main() {
  using namespace grpo::cuda;
  try {
    cudaDeviceProp device;
    must(cudaGetDeviceProperties(&device, 0), "the properties of the device");
    std::printf("device %s, compute capability %d.%d\n", device.name, device.major, device.minor);
    run_self_test(device.major, [](const char* section, const uint32_t* words, int count) {
      for (int i = 0; i < count; ++i) std::printf("%s %d %08x\n", section, i, words[i]);
    });
    return 0;
  } catch (const Failure& failure) {
    std::fprintf(stderr, "self_test: %s: %s\n", failure.what.c_str(), cudaGetErrorString(failure.error));
    return 1;
  }
}
