// The plain matrix product of the linear operations, on the float32 units: each block owns a tile of 64 x 64 results and
// walks over the depth 16 at a time through shared memory; each of its 256 threads owns 4 x 4 results. Operands may be
// gathered rows and transposed, of any dtype and alignment, and their number may be known to the device alone, which is
// what the compaction of rows without a gradient needs. The matrix units are not used: float32 gradients of logits times
// bf16 heads have no instruction, and rounding them to bf16 would break the accuracy rule.
#include "matmul.cuh"

namespace grpo::cuda {
namespace {

constexpr int kTile = 64, kDepth = 16, kThreads = 256, kOwn = 4;

struct Tiles {
  float a[kDepth][kTile + 4];  // + 4: rows begin in different banks, and stay aligned for float4
  float b[kDepth][kTile + 4];
};

__device__ __forceinline__ float element(const Matrix& matrix, int64_t i, int64_t k) {
  const int64_t row = matrix.transposed ? k : i, column = matrix.transposed ? i : k;
  return load_float(matrix.data, matrix.type, (matrix.rows == nullptr ? row : matrix.rows[row]) * matrix.stride + column);
}

// Neighbouring threads read neighbouring addresses: along k, or along i where the matrix is transposed.
__device__ __forceinline__ void load_tile(float (&tile)[kDepth][kTile + 4], const Matrix& matrix, int64_t first,
                                          int64_t rows, int64_t begin, int64_t depth) {
  for (int n = threadIdx.x; n < kTile * kDepth; n += kThreads) {
    const int i = matrix.transposed ? n % kTile : n / kDepth, k = matrix.transposed ? n / kTile : n % kDepth;
    tile[k][i] = first + i < rows && begin + k < depth ? element(matrix, first + i, begin + k) : 0;
  }
}

__global__ void __launch_bounds__(kThreads)
    matmul_kernel(Matrix a, Matrix b, Product out, int64_t M, int64_t N, int64_t K, const int32_t* live,
                  bool live_is_depth) {
  DYN_SMEM(Tiles, tiles);
  if (live != nullptr) (live_is_depth ? K : M) = *live;
  const int64_t across = ceil_div(N, kTile);
  const int64_t m0 = blockIdx.x / across * kTile, n0 = blockIdx.x % across * kTile;
  if (m0 >= M) return;
  const int own_m = threadIdx.x / (kTile / kOwn) * kOwn, own_n = threadIdx.x % (kTile / kOwn) * kOwn;
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
  for (int i = 0; i < kOwn; ++i) {
    const int64_t m = m0 + own_m + i;
    if (m >= M) continue;
    const int64_t row = out.rows == nullptr ? m : out.rows[m];
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int64_t n = n0 + own_n + j;
      if (n >= N) continue;
      float sum = sums[i][j];
      if (out.bias != nullptr) sum += load_float(out.bias, out.bias_type, n);
      if (out.add) sum += load_float(out.data, out.type, row * out.stride + n);
      store_float(out.data, out.type, row * out.stride + n, sum);
    }
  }
}

}  // namespace

void matmul(const Matrix& a, const Matrix& b, const Product& out, int64_t M, int64_t N, int64_t K, const int32_t* live,
            bool live_is_depth, Launch& on) {
  on(matmul_kernel, {ceil_div(M, kTile) * ceil_div(N, kTile), kThreads, sizeof(Tiles)}, a, b, out, M, N, K, live,
     live_is_depth);
}

}  // namespace grpo::cuda
