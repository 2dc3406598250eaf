// A formula that CPU kernels and CUDA kernels share: nvcc compiles it for both sides.
#pragma once

#ifdef __CUDACC__
#define GRPO_FORMULA __host__ __device__ inline
#else
#define GRPO_FORMULA static inline __attribute__((always_inline))
#endif

// Constants of a formula, in a GPU's constant memory: an instruction takes one from there as it is, while a float64
// number in the code costs two more instructions.
#ifdef __CUDACC__
#define GRPO_CONSTANTS static __constant__
#else
#define GRPO_CONSTANTS static constexpr
#endif
