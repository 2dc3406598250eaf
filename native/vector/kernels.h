// The vector code, for the instruction set whose file includes this; and its function table.

#include "simd.h"
#include "exponential.h"
#include "storage.h"
#include "matmul.h"
#include "rows.h"
#include "tiles.h"
#include "gaussian.h"

static constexpr VectorKernels kernels_named(const char* name) {
  return {.name = name,
          .softmax_stats = softmax_stats,
          .softmax_gradient = softmax_gradient,
          .matmul_tile = matmul_tile,
          .matmul = matmul,
          .matmul_scratch = kMatmulScratch,
          .softmax_tile = softmax_tile,
          .softmax_tile_backward = softmax_tile_backward,
          .convert = convert,
          .gaussian_sums = gaussian_sums};
}
