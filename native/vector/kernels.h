// The vector code, for the instruction set whose file includes this; and its function table.

#include "vector/simd.h"
#include "vector/exponential.h"
#include "vector/storage.h"
#include "vector/matmul.h"
#include "vector/softmax.h"
#include "vector/tiles.h"
#include "vector/gaussian.h"
#include "vector/dot.h"

static constexpr VectorKernels kernels_named(const char* name) {
  return {.name = name,
          .lanes = kLanes,
          .softmax_stats = softmax_stats,
          .softmax_gradient = softmax_gradient,
          .softcap = softcap,
          .matmul_tile = matmul_tile,
          .matmul = matmul,
          .matmul_bf16 = nullptr,
          .matmul_scratch = kMatmulScratch,
          .softmax_tile = softmax_tile,
          .softmax_tile_backward = softmax_tile_backward,
          .convert = convert,
          .gaussian_sums = gaussian_sums,
          .dot = dot,
          .add_scaled = add_scaled};
}
