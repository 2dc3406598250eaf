// The number of a thread in a grid of more than 2^32 of them, which no interpreter runs and no array of a test has: the
// indices that a kernel asks for are given here. Built and run by indices.test.ts.
#include <cstdio>

#include "test/simt/cuda.hpp"

#include "blocks/lanes.cuh"

namespace simt {
uint32_t block_index() { return 1u << 23; }
uint32_t thread_index() { return 37; }
uint32_t block_threads() { return 1024; }
}  // namespace simt

int main() {
  std::printf("%lld %d %d\n", static_cast<long long>(grpo::cuda::thread_index()), grpo::cuda::lane_index(),
              grpo::cuda::warp_index());
}
