// The matrix products of the linear operations with matrix instructions. A block owns 128 x 128 results and walks over
// the terms 32 at a time through three stages of shared memory, filled by cp.async while the matrix units work; each of
// its eight warps owns 64 x 32 results. Blocks that run at the same time share rows of the larger operand, which moves
// once from memory then and to the others from the L2 cache.
//
// Gradients of logits are float32, computed and no input: their digits go in as the terms of fragments.cuh, split as
// they leave shared memory. Rounded to one bf16, as is usual, they would take a half or a third of the instructions and
// miss the accuracy of the float32 formula, which test/linear_token_logprob.test.ts asks for.
//
// How many rows or terms there are is read on the device: the compaction of rows without a gradient costs no wait for
// it. A library's product wants these numbers on the host, and chooses its order of summation by them; here the bits of
// a row do not depend on how many others there are.
#include "blocks/fragments.cuh"
#include "linear/matmul.cuh"

namespace grpo::cuda {
namespace {

constexpr int kMatrixSide = 128, kDepth = 32, kStages = 3, kThreads = 256;
constexpr int kWarpRows = 64, kWarpColumns = 32;
constexpr int kRowFragments = kWarpRows / 16, kColumnFragments = kWarpColumns / 8;

// A tile of rows by terms, or of terms by rows. Past the end of a row: eight 16-bit numbers; eight floats, of which two
// at a time are read, or four where they are read one by one down the terms.
template <class X, bool kTransposed>
using Stage = X[kTransposed ? kDepth : kMatrixSide][kTransposed ? kMatrixSide + (sizeof(X) == 4 ? 4 : 8) : kDepth + 8];

template <class A, class T, bool kTransposedA, bool kTransposedB>
struct Shared {
  alignas(16) Stage<A, kTransposedA> a[kStages];
  alignas(16) Stage<T, kTransposedB> b[kStages];
  float scale[kMatrixSide];  // of the rows of a, where T is f16
};

// Begins the copy of rows first .. and terms begin ..; zeros beyond `rows` and `terms`. Whole pieces of 16 bytes: the
// numbers that follow the last one of a row are read, and have to be harmless.
template <class X, bool kTransposed>
__device__ __forceinline__ void fetch(Stage<X, kTransposed>& to, const Matrix& x, int64_t first, int64_t rows,
                                      int64_t begin, int64_t terms) {
  constexpr int kPiece = 16 / sizeof(X), kPieces = (kTransposed ? kMatrixSide : kDepth) / kPiece;
  const int64_t down = kTransposed ? begin : first, down_end = kTransposed ? terms : rows;
  const int64_t across = kTransposed ? first : begin, across_end = kTransposed ? rows : terms;
  const X* data = static_cast<const X*>(x.data);
#pragma unroll 1
  for (int n = threadIdx.x; n < kMatrixSide * kDepth / kPiece; n += kThreads) {
    const int i = n / kPieces, j = n % kPieces * kPiece;
    const bool inside = down + i < down_end && across + j < across_end;
    const int64_t row = inside ? (x.rows == nullptr ? down + i : x.rows[down + i]) : 0;
    cp_async16(&to[i][j], inside ? data + row * x.stride + across + j : data, inside);
  }
}

// The power of two, as far as float32 has it, that brings `largest` to between 2^14 and 2^15: f16 ends at 65504.
__device__ __forceinline__ float scale_for(float largest) {
  const int exponent = static_cast<int>(__float_as_uint(largest) >> 23) - 127;
  const int power = 14 - exponent < 126 ? 14 - exponent : 126;
  return __uint_as_float(static_cast<uint32_t>(power + 127) << 23);
}

// The left factor of 16 rows and 16 terms, as terms of 16 bits: left[0] first, then what it leaves.
template <class T, bool kTransposed>
__device__ __forceinline__ void split_factor(uint32_t (&left)[kTerms<T>][4], const Stage<float, kTransposed>& x,
                                             int row, int term, const float (&scale)[kMatrixSide]) {
  const int r = row + lane_index() / 4, k = term + lane_index() % 4 * 2;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int at = r + i % 2 * 8, of = k + i / 2 * 8;
    float low = kTransposed ? x[of][at] : x[at][of];
    float high = kTransposed ? x[of + 1][at] : x[at][of + 1];
    if (std::is_same_v<T, f16>) low *= scale[at], high *= scale[at];
#pragma unroll
    for (int n = 0; n < kTerms<T>; ++n) left[n][i] = take_term<T>(low, high);
  }
}

// A: T, or float for a factor that was computed.
// Grid: ceil(M / 128) ceil(N / 128). Block: 256. Shared: 61,952 to 88,064. Work: M N K products, of gradients in two or
// three terms. Bound: issue.
template <class A, class T, bool kTransposedA, bool kTransposedB>
__global__ void __launch_bounds__(kThreads, std::is_same_v<A, float> && std::is_same_v<T, f16> ? 1 : 2)
    matmul_mma_kernel(Matrix a, Matrix b, Product out, int64_t M, int64_t N, int64_t K, Extent extent,
                      const float* largest) {
  constexpr bool kSplit = std::is_same_v<A, float>;
  constexpr bool kScaled = kSplit && std::is_same_v<T, f16>;
  // Steps of 16 terms whose products the matrix unit adds up before they go into the sums: it cuts digits off where an
  // addition rounds. One where the factor has several terms.
  constexpr int kChain = kSplit ? 1 : kDepth / 16;
  constexpr int kLeft = kSplit ? kTerms<T> : 1;
  const int terms = kSplit && out.becomes != Float::kF32 ? 2 : kLeft;  // 16 bits are enough then
  using Tiles = Shared<A, T, kTransposedA, kTransposedB>;
  DYN_SMEM(Tiles, shared);
  const int64_t rows = ceil_div(M, kMatrixSide), columns = ceil_div(N, kMatrixSide);
  if (extent.live != nullptr) (extent.of_depth ? K : M) = *extent.live;
  // The shorter side first: neighbours share what is the longer operand.
  const int64_t m0 = (rows <= columns ? blockIdx.x % rows : blockIdx.x / columns) * kMatrixSide;
  const int64_t n0 = (rows <= columns ? blockIdx.x / rows : blockIdx.x % columns) * kMatrixSide;
  if (m0 >= M || (K == 0 && out.add)) return;
  const int warp_m = warp_index() / (kMatrixSide / kWarpColumns) * kWarpRows;
  const int warp_n = warp_index() % (kMatrixSide / kWarpColumns) * kWarpColumns;

  if (kScaled && threadIdx.x < kMatrixSide) {  // read behind the barriers of the loop
    const int64_t m = m0 + threadIdx.x;
    shared.scale[threadIdx.x] =
        m < M ? scale_for(largest[kTransposedA || a.rows == nullptr ? m : a.rows[m]]) : 1;
  }
  float sum[kRowFragments][kColumnFragments][4] = {};
  const int64_t stages = ceil_div(K, kDepth);
  const auto begin_copy = [&](int64_t n) {
    if (n < stages) {
      fetch<A, kTransposedA>(shared.a[n % kStages], a, m0, M, n * kDepth, K);
      fetch<T, kTransposedB>(shared.b[n % kStages], b, n0, N, n * kDepth, K);
    }
    cp_async_commit();  // a group for each stage, empty or not: the waits count them
  };
  for (int n = 0; n < kStages - 1; ++n) begin_copy(n);
  for (int64_t n = 0; n < stages; ++n) {
    cp_async_wait<kStages - 2>();
    __syncthreads();  // stage n is there, and nobody reads that of n - 1, the next to be filled
    begin_copy(n + kStages - 1);
    const auto& tile_a = shared.a[n % kStages];
    const auto& tile_b = shared.b[n % kStages];
#pragma unroll
    for (int begin = 0; begin < kDepth; begin += 16 * kChain) {
      uint32_t right[kChain][kColumnFragments / 2][4];
#pragma unroll
      for (int step = 0; step < kChain; ++step)
#pragma unroll
        for (int j = 0; j < kColumnFragments / 2; ++j) {
          const int term = begin + step * 16, column = warp_n + j * 16;
          if constexpr (kTransposedB) right_factors_by_terms(right[step][j], tile_b, term, column);
          else right_factors(right[step][j], tile_b, column, term);
        }
#pragma unroll
      for (int i = 0; i < kRowFragments; ++i) {
        const int row = warp_m + i * 16;
        float part[kColumnFragments][4] = {};
#pragma unroll
        for (int step = 0; step < kChain; ++step) {
          uint32_t left[kLeft][4];
          if constexpr (kSplit) split_factor<T, kTransposedA>(left, tile_a, row, begin + step * 16, shared.scale);
          else left_factor(left[0], tile_a, row, begin + step * 16);
#pragma unroll
          for (int term = kLeft - 1; term >= 0; --term) {
            if (term >= terms) continue;
#pragma unroll
            for (int j = 0; j < kColumnFragments; j += 2)
              multiply_add<T>(part[j], part[j + 1], left[term], right[step][j / 2]);
          }
        }
#pragma unroll
        for (int j = 0; j < kColumnFragments; ++j)
#pragma unroll
          for (int c = 0; c < 4; ++c) sum[i][j][c] += part[j][c];
      }
    }
  }

#pragma unroll
  for (int i = 0; i < kRowFragments; ++i)
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      const int64_t m = m0 + warp_m + i * 16 + lane_index() / 4 + which * 8;
      if (m >= M) continue;
      const float back = kScaled && K > 0 ? 1 / shared.scale[m - m0] : 1;
#pragma unroll
      for (int j = 0; j < kColumnFragments; ++j)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int64_t n = n0 + warp_n + j * 8 + lane_index() % 4 * 2 + c;
          if (n < N) store_product(out, m, n, back * sum[i][j][which * 2 + c]);
        }
    }
}

bool aligned(const Matrix& x) {
  const int64_t size = x.type == Float::kF32 ? 4 : 2;
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.stride * size % 16 == 0;
}

template <class T>
bool multiply(const Matrix& a, const Matrix& b, const Product& out, int64_t M, int64_t N, int64_t K,
              const Extent& extent, const float* largest, Launch& on) {
  const auto launch = [&]<class A, bool kTransposedA, bool kTransposedB>() {
    const int64_t blocks = ceil_div(M, kMatrixSide) * ceil_div(N, kMatrixSide);
    on(matmul_mma_kernel<A, T, kTransposedA, kTransposedB>,
       {blocks, kThreads, sizeof(Shared<A, T, kTransposedA, kTransposedB>)}, a, b, out, M, N, K, extent, largest);
    return true;
  };
  if (a.type == b.type && !a.transposed && !b.transposed) return launch.template operator()<T, false, false>();
  if (a.type != Float::kF32 || !b.transposed) return false;
  if (std::is_same_v<T, f16> && largest == nullptr) return false;
  if (a.transposed) return launch.template operator()<float, true, true>();
  return launch.template operator()<float, false, true>();
}

}  // namespace

bool matmul_by_matrices(const Matrix& a, const Matrix& b, const Product& out, int64_t M, int64_t N, int64_t K,
                        const Extent& extent, const float* largest, Launch& on) {
  if (!aligned(a) || !aligned(b)) return false;
  if (b.type == Float::kBf16) return multiply<bf16>(a, b, out, M, N, K, extent, largest, on);
  if (b.type == Float::kF16) return multiply<f16>(a, b, out, M, N, K, extent, largest, on);
  return false;
}

}  // namespace grpo::cuda
