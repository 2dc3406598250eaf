// The self-test of ptx.cuh. Where a word may be off by a few ulp, it says whether it is no further off than that.
#include "launch/self_test.cuh"

#include "launch/self_test/every_gpu.cuh"
#include "launch/self_test/sm90.cuh"

namespace grpo::cuda {
namespace {

struct Section {
  const char* name;
  void (*kernel)(uint32_t*, const uint32_t*);
  Shape shape;
  int words;
};

const Section kSections[] = {
    {"convert", convert_kernel, {1, 32}, 192},
    {"cp_async", cp_async_kernel, {1, 32, sizeof(CopyShared)}, 320},
    {"ldmatrix", ldmatrix_kernel, {1, 32, sizeof(MatrixShared)}, 256},
    {"mma_bf16", mma_kernel<bf16>, {1, 32}, 128},
    {"mma_f16", mma_kernel<f16>, {1, 32}, 128},
    {"bulk", bulk_kernel, {1, 32, sizeof(BulkShared)}, 288},
    {"cluster", cluster_kernel, {2, 32, sizeof(ClusterShared), 2}, 640},
    {"named_barrier", named_barrier_kernel, {1, 96, sizeof(NamedShared)}, 96},
    {"hand_over", hand_over_kernel, {32, 32}, 66},
    {"stream", stream_kernel, {1, 32}, 256},
    {"approximate", approximate_kernel, {1, 32}, 128},
};

bool needs_sm90(const Section& section) { return section.kernel == bulk_kernel || section.kernel == cluster_kernel; }

}  // namespace

void run_self_test(int32_t major, const std::function<void(const char*, const uint32_t*, int)>& visit) {
  constexpr size_t kMost = 1024;
  struct Memory {
    uint32_t* words = nullptr;
    explicit Memory(size_t count) { must(cudaMalloc(&words, count * sizeof *words), "memory of the self-test"); }
    ~Memory() { cudaFree(words); }
  };
  const Memory input(kInputWords), output(kMost);
  std::vector<uint32_t> words(kInputWords);
  for (uint32_t i = 0; i < kInputWords; ++i) words[i] = pattern(i);
  must(cudaMemcpy(input.words, words.data(), kInputWords * sizeof(uint32_t), cudaMemcpyHostToDevice), "a copy");
  for (const Section& section : kSections) {
    if (major < 9 && needs_sm90(section)) continue;
    must(cudaMemset(output.words, 0, kMost * sizeof(uint32_t)), "a fill with zeros");
    cudaLaunchAttribute cluster;
    const cudaLaunchConfig_t config = config_of(section.shape, nullptr, cluster);
    must(cudaLaunchKernelEx(&config, section.kernel, output.words, static_cast<const uint32_t*>(input.words)),
         section.name);
    must(cudaMemcpy(words.data(), output.words, section.words * sizeof(uint32_t), cudaMemcpyDeviceToHost),
         section.name);
    visit(section.name, words.data(), section.words);
  }
}

}  // namespace grpo::cuda
