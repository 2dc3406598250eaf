// Every function of cuda/launch/ptx.cuh, called with a fixed pattern of lanes: registers in, registers out. A GPU and the
// interpreter have to give the same words; that is the one check that both mean the same by an instruction. Where one
// may be off by a few ulp the word says whether it is no further off.
//
// Built for GPUs as build-cuda/self_test, for the interpreter as build-simt/self_test. Prints a line for the device and
// one per word: "convert 3 3f80bc00" is word 3 of that section. What the device is too old for is left out.
#include <cstdio>
#include <vector>

#include "every_gpu.cuh"
#include "sm90.cuh"

namespace grpo::cuda {
namespace {

struct Section {
  const char* name;
  void (*kernel)(uint32_t*, const uint32_t*);
  unsigned blocks, threads;
  size_t shared;
  unsigned cluster;
  int words;
};

constexpr Section kSections[] = {
    {"convert", convert_kernel, 1, 32, 0, 1, 192},
    {"cp_async", cp_async_kernel, 1, 32, sizeof(CopyShared), 1, 320},
    {"ldmatrix", ldmatrix_kernel, 1, 32, sizeof(MatrixShared), 1, 256},
    {"mma_bf16", mma_kernel<bf16>, 1, 32, 0, 1, 128},
    {"mma_f16", mma_kernel<f16>, 1, 32, 0, 1, 128},
    {"bulk", bulk_kernel, 1, 32, sizeof(BulkShared), 1, 288},
    {"cluster", cluster_kernel, 2, 32, sizeof(ClusterShared), 2, 640},
    {"named_barrier", named_barrier_kernel, 1, 96, sizeof(NamedShared), 1, 96},
    {"hand_over", hand_over_kernel, 32, 32, 0, 1, 66},
    {"stream", stream_kernel, 1, 32, 0, 1, 256},
    {"approximate", approximate_kernel, 1, 32, 0, 1, 128},
};

bool needs_sm90(const Section& section) { return section.kernel == bulk_kernel || section.kernel == cluster_kernel; }

cudaError_t launch(const Section& section, uint32_t* output, const uint32_t* input) {
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = section.cluster;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(section.blocks);
  config.blockDim = dim3(section.threads);
  config.dynamicSmemBytes = section.shared;
  config.attrs = &cluster;
  config.numAttrs = section.cluster > 1 ? 1 : 0;
  return cudaLaunchKernelEx(&config, section.kernel, output, input);
}

cudaError_t run_sections() {
  constexpr size_t kMost = 1024;
  uint32_t *input = nullptr, *output = nullptr;
  cudaDeviceProp device;
  cudaError_t error = cudaGetDeviceProperties(&device, 0);
  if (error == cudaSuccess) error = cudaMalloc(&input, kInputWords * sizeof(uint32_t));
  if (error == cudaSuccess) error = cudaMalloc(&output, kMost * sizeof(uint32_t));
  if (error != cudaSuccess) return error;
  std::printf("device %s, compute capability %d.%d\n", device.name, device.major, device.minor);
  std::vector<uint32_t> words(kInputWords);
  for (uint32_t i = 0; i < kInputWords; ++i) words[i] = pattern(i);
  error = cudaMemcpy(input, words.data(), kInputWords * sizeof(uint32_t), cudaMemcpyHostToDevice);
  for (const Section& section : kSections) {
    if (device.major < 9 && needs_sm90(section)) continue;
    if (error == cudaSuccess) error = cudaMemset(output, 0, kMost * sizeof(uint32_t));
    if (error == cudaSuccess) error = launch(section, output, input);
    if (error == cudaSuccess)
      error = cudaMemcpy(words.data(), output, section.words * sizeof(uint32_t), cudaMemcpyDeviceToHost);
    if (error != cudaSuccess) break;
    for (int i = 0; i < section.words; ++i) std::printf("%s %d %08x\n", section.name, i, words[i]);
  }
  cudaFree(input);
  cudaFree(output);
  return error;
}

}  // namespace
}  // namespace grpo::cuda

int main() {
  const cudaError_t error = grpo::cuda::run_sections();
  if (error == cudaSuccess) return 0;
  std::fprintf(stderr, "self_test: %s: %s\n", cudaGetErrorName(error), cudaGetErrorString(error));
  return 1;
}
