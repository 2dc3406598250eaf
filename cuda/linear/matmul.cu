// The matrix product of the linear operations, and how it is done without matrix instructions: each block owns a tile
// of 64 x 64 results and walks over the terms 16 at a time through shared memory; each of its 256 threads owns 4 x 4
// results. Operands may be gathered rows and transposed, of any dtypes and alignment, and their number may be known to
// the device alone, which is what the compaction of rows without a gradient needs. matmul.cuh says which products take
// matrix instructions in its place.
#include "linear/matmul.cuh"

#include "blocks/lanes.cuh"

namespace grpo::cuda {
namespace {

constexpr int kPlainSide = 64, kDepth = 16, kThreads = 256, kOwn = 4;

struct Tiles {
  float a[kDepth][kPlainSide + 4];  // + 4: rows begin in different banks, and stay aligned for float4
  float b[kDepth][kPlainSide + 4];
};

__device__ __forceinline__ float element(const Matrix& matrix, int64_t i, int64_t k) {
  const int64_t row = matrix.transposed ? k : i, column = matrix.transposed ? i : k;
  const int64_t of_data = matrix.rows == nullptr ? row : matrix.rows[row];
  return load_float(matrix.data, matrix.type, of_data * matrix.stride + column);
}

// Neighbouring threads read neighbouring addresses: along k, or along i where the matrix is transposed.
__device__ __forceinline__ void load_tile(float (&tile)[kDepth][kPlainSide + 4], const Matrix& matrix, int64_t first,
                                          int64_t rows, int64_t begin, int64_t depth) {
  for (int n = threadIdx.x; n < kPlainSide * kDepth; n += kThreads) {
    const int i = matrix.transposed ? n % kPlainSide : n / kDepth, k = matrix.transposed ? n / kPlainSide : n % kDepth;
    tile[k][i] = first + i < rows && begin + k < depth ? element(matrix, first + i, begin + k) : 0;
  }
}

// What becomes of an element of the product, in row m and column n.
__device__ __forceinline__ void store_product(const Product& out, int64_t m, int64_t n, float sum) {
  const int64_t at = (out.rows == nullptr ? m : out.rows[m]) * out.stride + n;
  if (out.bias != nullptr) sum += load_float(out.bias, out.bias_type, n);
  if (out.add) sum += load_float(out.data, out.type, at);
  store_float(out.data, out.type, at, sum);
}

// Grid: ceil(M / 64) ceil(N / 64). Block: 256. Shared: 8,704. Work: M N K products. Bound: issue.
__global__ void __launch_bounds__(kThreads)
    matmul_kernel(Matrix a, Matrix b, Product out, int64_t M, int64_t N, int64_t K, Extent extent, Choice choice) {
  DYN_SMEM(Tiles, tiles);
  if (choice.skips()) return;
  if (extent.live != nullptr) (extent.of_depth ? K : M) = *extent.live;
  const int64_t across = ceil_div(N, kPlainSide);
  const int64_t m0 = blockIdx.x / across * kPlainSide, n0 = blockIdx.x % across * kPlainSide;
  if (m0 >= M || (K == 0 && out.add)) return;
  const int own_m = threadIdx.x / (kPlainSide / kOwn) * kOwn, own_n = threadIdx.x % (kPlainSide / kOwn) * kOwn;
  float sums[kOwn][kOwn] = {};
  for (int64_t begin = 0; begin < K; begin += kDepth) {
    __syncthreads();  // the tiles of the step before are still being read
    load_tile(tiles.a, a, m0, M, begin, K);
    load_tile(tiles.b, b, n0, N, begin, K);
    __syncthreads();
    float partial[kOwn][kOwn] = {};  // a long chain of additions would lose digits
    for (int k = 0; k < kDepth; ++k) {
      float x[kOwn], y[kOwn];
      for (int i = 0; i < kOwn; ++i) x[i] = tiles.a[k][own_m + i], y[i] = tiles.b[k][own_n + i];
      for (int i = 0; i < kOwn; ++i)
        for (int j = 0; j < kOwn; ++j) partial[i][j] = fmaf(x[i], y[j], partial[i][j]);
    }
    for (int i = 0; i < kOwn; ++i)
      for (int j = 0; j < kOwn; ++j) sums[i][j] += partial[i][j];
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i)
#pragma unroll
    for (int j = 0; j < kOwn; ++j)
      if (m0 + own_m + i < M && n0 + own_n + j < N) store_product(out, m0 + own_m + i, n0 + own_n + j, sums[i][j]);
}

}  // namespace

void matmul(Use use, const Matrix& a, const Matrix& b, const Product& out, int64_t M, int64_t N, int64_t K,
            const Extent& extent, const Choice& choice, const float* largest, Launch& on) {
  if (matmul_of_halves(use, a, b, out, M, N, K, extent, choice, on)) return on.runs("matmul_mma_kernel");
  if (matmul_by_terms(use, a, b, out, M, N, K, extent, choice, largest, on)) return on.runs("matmul_mma_kernel");
  on.runs("matmul_kernel");
  on.because(b.type == Float::kF32 ? "matrix instructions take bf16 and f16, not f32"
                                   : "matrix instructions need rows of one dtype that begin at multiples of 16 bytes");
  const int64_t blocks = ceil_div(M, kPlainSide) * ceil_div(N, kPlainSide);
  on(matmul_kernel, {blocks, kThreads, sizeof(Tiles)}, a, b, out, M, N, K, extent, choice);
}

}  // namespace grpo::cuda
