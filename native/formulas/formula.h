// A formula that CPU kernels and CUDA kernels share: nvcc compiles it for both sides.
#pragma once

#ifdef __CUDACC__
#define GRPO_FORMULA __host__ __device__ inline
#else
#define GRPO_FORMULA static inline __attribute__((always_inline))
#endif
