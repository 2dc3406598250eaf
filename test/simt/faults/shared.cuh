// What the planted faults have in common. Each kernel is correct if `right`, and wrong in one way if not. The line that a
// report has to name ends in a comment `// <kind>`; where the schedule decides between several, each has its comment.
#pragma once

#include "cuda/launch/ptx.cuh"
#include "faults.hpp"

namespace {

using namespace grpo::cuda;

constexpr uint32_t kAll = 0xffffffffu;

struct alignas(128) Shared {
  float x[256];
  float y[256];
  alignas(16) float tile[256];
  uint64_t full[2];
  uint64_t empty[2];
  float peer[8];
  const float* local;
  uint32_t word;
};

__device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x); }

__device__ __forceinline__ void init_barriers(Shared& s, uint32_t arrivals) {
  if (thread() == 0) {
    for (int i = 0; i < 2; ++i) mbarrier_init(&s.full[i], 1), mbarrier_init(&s.empty[i], arrivals);
    mbarrier_init_fence();
  }
}

template <void (*kKernel)(FaultArgs)>
void body(const void* args) {
  kKernel(*static_cast<const FaultArgs*>(args));
}

#define FAULT(kernel, blocks, threads, cluster) {#kernel, blocks, threads, cluster, sizeof(Shared), body<kernel>}

template <size_t kCount>
constexpr FaultList faults(const Fault (&list)[kCount]) {
  FaultList result{{}, kCount};
  for (size_t i = 0; i < kCount; ++i) result.faults[i] = list[i];
  return result;
}

}  // namespace
