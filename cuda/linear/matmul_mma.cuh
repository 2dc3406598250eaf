// The kernel of the matrix products with matrix instructions. A block owns 128 x 128 results and walks over the terms
// 32 at a time through three stages of shared memory, filled by cp.async while the matrix units work; each of its four
// warps owns 64 x 64 results. Two blocks share a multiprocessor: one computes while the other waits. Blocks that run at
// the same time share rows of the larger operand, which moves once from memory then and to the others from the L2
// cache.
//
// How many rows or terms there are is read on the device: the compaction of rows without a gradient costs no wait for
// it. A library's product wants these numbers on the host, and chooses its order of summation by them; here the bits of
// a row do not depend on how many others there are.
//
// Instructions of the loop for 32 matrix instructions (HMMA) of a warp, counted in machine code for sm_90a; in brackets
// those of a warp of 64 x 32 results whose copies found each row anew and whose results were stored by types known when
// the kernel ran, in 28,000 instructions, now 2,300 to 4,500:
//
//   logits                         140 [358]   64 of them add part sums, 8 load factors, 28 copy and count
//   gradHidden, gradHead, one term 146, 156
//   in two terms                   244 to 330 [412 to 465]
//   in three                       226 to 255 [336 to 345]
#pragma once

#include "blocks/fragments.cuh"
#include "linear/matmul.cuh"
#include "blocks/powers.cuh"

namespace grpo::cuda {

constexpr int kDepth = 32, kStages = 3;
constexpr int kWarpRows = 64, kRowFragments = kWarpRows / 16;

// 128 rows by 32 terms, or terms by rows, in pieces of 16 bytes, so laid out that what a warp reads at a time lies in
// different banks: of 16-bit numbers, which piece of its row one is changes from row to row; of floats, which are read
// one or two at a time, rows are padded.
template <class X, bool kTransposed>
struct alignas(16) Tile {
  static constexpr int kPiece = 16 / sizeof(X);
  static constexpr int kDown = kTransposed ? kDepth : kMatrixSide, kAcross = kTransposed ? kMatrixSide : kDepth;
  static constexpr int kPieces = kAcross / kPiece, kPitch = kAcross + (sizeof(X) == 2 ? 0 : kTransposed ? 4 : 8);
  X data[kDown * kPitch];

  __device__ __forceinline__ static int place(int down, int across) {
    if constexpr (sizeof(X) == 4) return down * kPitch + across;
    const int shift = kTransposed ? down % 8 : down / 2 % 4;
    return down * kPitch + (across / kPiece ^ shift) * kPiece + across % kPiece;
  }
  __device__ __forceinline__ X* at(int down, int across) { return data + place(down, across); }
  __device__ __forceinline__ const X* at(int down, int across) const { return data + place(down, across); }
};

// A thread's share of the copies of tiles, from term 0 on: which rows it copies is found once, and an address is then
// one multiply-add. Rows past the end are copies of row 0, whose results nobody stores; terms past the end are zeros.
// kGathered: the rows of the data are those that x.rows lists.
template <class X, bool kTransposed, bool kGathered, int kThreads>
class TileCopy {
 public:
  __device__ __forceinline__ TileCopy(const Matrix& x, int32_t first, int32_t rows, int32_t terms)
      : data_(static_cast<const char*>(x.data)),
        rows_(x.rows),
        stride_(static_cast<uint32_t>(x.stride * sizeof(X))),
        terms_(terms) {
    if constexpr (kTransposed) {
      left_ = terms - down();
      if (first + across() < rows) data_ += (first + across()) * int64_t{sizeof(X)};
      if constexpr (!kGathered) data_ += int64_t{stride_} * down();
      find_rows(0);
    } else {
      left_ = terms - across();
      data_ += across() * sizeof(X);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const int32_t own = first + down() + i * kRowsAtOnce, row = own < rows ? own : 0;
        row_[i] = static_cast<uint32_t>(kGathered ? rows_[row] : row);
      }
    }
  }

  // Begins the copy of the next tile.
  __device__ __forceinline__ void operator()(Tile<X, kTransposed>& to) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const bool inside = left_ > (kTransposed ? i * kRowsAtOnce : 0);
      cp_async16(to.at(down() + i * kRowsAtOnce, across()), data_ + uint64_t{stride_} * row_[i], inside);
    }
    left_ -= kDepth;
    if constexpr (!kTransposed) data_ += kDepth * sizeof(X);
    else if constexpr (kGathered) find_rows(terms_ - left_ - down());
    else data_ += int64_t{stride_} * kDepth;
  }

 private:
  using T = Tile<X, kTransposed>;
  static constexpr int kRowsAtOnce = kThreads / T::kPieces, kCount = T::kDown / kRowsAtOnce;

  __device__ __forceinline__ static int down() { return threadIdx.x / T::kPieces; }
  __device__ __forceinline__ static int across() { return threadIdx.x % T::kPieces * T::kPiece; }

  // Of the terms that the next tile begins with: their numbers are on the way while the tile before is multiplied.
  __device__ __forceinline__ void find_rows(int32_t begin) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int32_t term = begin + down() + i * kRowsAtOnce;
      row_[i] = !kGathered ? i * kRowsAtOnce : term < terms_ ? static_cast<uint32_t>(rows_[term]) : 0;
    }
  }

  const char* data_;
  const int32_t* rows_;
  uint32_t stride_, row_[kCount];
  int32_t terms_, left_;
};

// The left factor of 16 rows and 16 terms from (row, term) on.
template <class T, bool kTransposed>
__device__ __forceinline__ void load_left(uint32_t (&r)[4], const Tile<T, kTransposed>& x, int row, int term) {
  const int lane = lane_index();
  if constexpr (kTransposed) ldmatrix_x4_trans(r, x.at(term + lane / 16 * 8 + lane % 8, row + lane / 8 % 2 * 8));
  else ldmatrix_x4(r, x.at(row + lane % 16, term + lane / 16 * 8));
}
// The right factors of two products: r[0..1] for columns column .. + 7, r[2..3] for those 8 on.
template <class T, bool kTransposed>
__device__ __forceinline__ void load_right(uint32_t (&r)[4], const Tile<T, kTransposed>& x, int column, int term) {
  const int lane = lane_index();
  if constexpr (kTransposed) ldmatrix_x4_trans(r, x.at(term + lane % 16, column + lane / 16 * 8));
  else ldmatrix_x4(r, x.at(column + lane / 16 * 8 + lane % 8, term + lane / 8 % 2 * 8));
}

// The left factor of float32 numbers, as terms of 16 bits: left[0] first, then what it leaves.
template <class T, int kLeft, bool kTransposed>
__device__ __forceinline__ void split_left(uint32_t (&left)[kLeft][4], const Tile<float, kTransposed>& x, int row,
                                           int term, const float* scale) {
  const int r = row + lane_index() / 4, k = term + lane_index() % 4 * 2;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int at = r + i % 2 * 8, of = k + i / 2 * 8;
    float low = *(kTransposed ? x.at(of, at) : x.at(at, of));
    float high = *(kTransposed ? x.at(of + 1, at) : x.at(at, of + 1));
    if constexpr (std::is_same_v<T, f16>) low *= scale[at], high *= scale[at];
#pragma unroll
    for (int n = 0; n < kLeft; ++n) left[n][i] = take_term<T>(low, high);
  }
}

// Two neighbours, the first in column n of N; paired: as one, where they are aligned to their size.
template <bool kAdd, class Y>
__device__ __forceinline__ void store_two(Y* to, float x, float y, int64_t n, int64_t N, bool paired) {
  if (paired && n + 1 < N) {
    if constexpr (std::is_same_v<Y, float>) {
      float2& pair = *reinterpret_cast<float2*>(to);
      if constexpr (kAdd) {
        const float2 before = pair;
        x += before.x, y += before.y;
      }
      pair = make_float2(x, y);
    } else {
      *reinterpret_cast<uint32_t*>(to) = pack2<Y>(x, y);
    }
    return;
  }
  if (n < N) to[0] = from_float<Y>(kAdd ? to_float(to[0]) + x : x);
  if (n + 1 < N) to[1] = from_float<Y>(kAdd ? to_float(to[1]) + y : y);
}

template <class A, class T, bool kTransposedA, bool kTransposedB>
struct MatrixShared {
  Tile<A, kTransposedA> a[kStages];
  Tile<T, kTransposedB> b[kStages];
};
template <class T, bool kTransposedA, bool kTransposedB>
struct MatrixShared<float, T, kTransposedA, kTransposedB> {
  Tile<float, kTransposedA> a[kStages];
  Tile<T, kTransposedB> b[kStages];
  float scale[kMatrixSide];  // of the rows of a, where T is f16
};

template <class A>
constexpr int kWarpColumns = sizeof(A) == 2 ? 64 : 32;
template <class A>
constexpr int kMatrixThreads = kMatrixSide / kWarpRows * (kMatrixSide / kWarpColumns<A>) * kWarp;

template <Use kUse, class A, class T>
using SharedOf = MatrixShared<A, T, kUse == Use::kGradHead, kUse != Use::kLogits>;

// A: T, or float for a factor that goes in as kLeft terms: splitting takes registers, so that a warp owns half the
// columns then. Y: of the results.
// Grid: ceil(M / 128) ceil(N / 128). Block: 128 or 256. Shared: 49,152 to 86,528. Work: M N K products, of float32
// gradients in two or three terms. Bound: matrix units.
template <Use kUse, class A, class T, class Y, int kLeft>
__global__ void __launch_bounds__(kMatrixThreads<A>, sizeof(A) == 2 ? 2 : 1)
    matmul_mma_kernel(Matrix a, Matrix b, Product out, int32_t M, int32_t N, int32_t K, Extent extent, Choice choice,
                      const float* largest) {
  constexpr bool kTransposedA = kUse == Use::kGradHead, kTransposedB = kUse != Use::kLogits;
  constexpr bool kAdd = kUse == Use::kGradHead;
  constexpr int kThreads = kMatrixThreads<A>, kColumnFragments = kWarpColumns<A> / 8;
  constexpr bool kSplit = !std::is_same_v<A, T>, kScaled = kSplit && std::is_same_v<T, f16>;
  // Steps of 16 terms whose products the matrix unit adds up before they go into the sums: it cuts digits off where an
  // addition rounds. One where the factor has several terms, whose results are float32.
  constexpr int kChain = kSplit ? 1 : kDepth / 16;
  using Tiles = SharedOf<kUse, A, T>;
  DYN_SMEM(Tiles, shared);
  if (choice.skips()) return;
  const int32_t rows = (M + kMatrixSide - 1) / kMatrixSide, columns = (N + kMatrixSide - 1) / kMatrixSide;
  if (extent.live != nullptr) (extent.of_depth ? K : M) = *extent.live;
  // The shorter side first: neighbours share what is the longer operand.
  const int32_t block = static_cast<int32_t>(blockIdx.x);
  const int32_t m0 = (rows <= columns ? block % rows : block / columns) * kMatrixSide;
  const int32_t n0 = (rows <= columns ? block / rows : block % columns) * kMatrixSide;
  if (m0 >= M || (K == 0 && kAdd)) return;
  constexpr int kAcross = kMatrixSide / kWarpColumns<A>;
  const int warp_m = warp_index() / kAcross * kWarpRows, warp_n = warp_index() % kAcross * kWarpColumns<A>;

  const float* scale = nullptr;
  if constexpr (kScaled) {  // read behind the barriers of the loop
    if (threadIdx.x < kMatrixSide) {
      const int32_t m = m0 + static_cast<int32_t>(threadIdx.x);
      shared.scale[threadIdx.x] =
          m < M ? PowerOfTwo::exactly(power_for(largest[kTransposedA ? m : a.rows[m]])) : 1;
    }
    scale = shared.scale;
  }
  TileCopy<A, kTransposedA, true, kThreads> copy_a(a, m0, M, K);
  TileCopy<T, kTransposedB, kSplit && kUse == Use::kGradHead, kThreads> copy_b(b, n0, N, K);
  float sum[kRowFragments][kColumnFragments][4] = {};
  int32_t next = 0;  // the term that the next copy begins with
  const auto begin_copy = [&](int stage) {
    if (next < K) copy_a(shared.a[stage]), copy_b(shared.b[stage]);
    next += kDepth;
    cp_async_commit();  // a group for each stage, empty or not: the waits count them
  };
  for (int stage = 0; stage < kStages - 1; ++stage) begin_copy(stage);
  int stage = 0;
  for (int32_t begin = 0; begin < K; begin += kDepth) {
    cp_async_wait<kStages - 2>();
    __syncthreads();  // this stage is there, and nobody reads the one before, the next to be filled
    begin_copy(stage == 0 ? kStages - 1 : stage - 1);
    const auto& tile_a = shared.a[stage];
    const auto& tile_b = shared.b[stage];
    stage = stage == kStages - 1 ? 0 : stage + 1;
#pragma unroll
    for (int term = 0; term < kDepth; term += 16 * kChain) {
      uint32_t right[kChain][kColumnFragments / 2][4];
#pragma unroll
      for (int step = 0; step < kChain; ++step)
#pragma unroll
        for (int j = 0; j < kColumnFragments / 2; ++j)
          load_right(right[step][j], tile_b, warp_n + j * 16, term + step * 16);
#pragma unroll
      for (int i = 0; i < kRowFragments; ++i) {
        float part[kColumnFragments][4] = {};
#pragma unroll
        for (int step = 0; step < kChain; ++step) {
          const int row = warp_m + i * 16, at = term + step * 16;
          uint32_t left[kLeft][4];
          if constexpr (kSplit) split_left<T>(left, tile_a, row, at, scale);
          else load_left(left[0], tile_a, row, at);
#pragma unroll
          for (int n = kLeft - 1; n >= 0; --n)
#pragma unroll
            for (int j = 0; j < kColumnFragments; j += 2)
              multiply_add<T>(part[j], part[j + 1], left[n], right[step][j / 2]);
        }
#pragma unroll
        for (int j = 0; j < kColumnFragments; ++j)
#pragma unroll
          for (int c = 0; c < 4; ++c) sum[i][j][c] += part[j][c];
      }
    }
  }

  const bool paired = out.stride % 2 == 0 && reinterpret_cast<uintptr_t>(out.data) % (2 * sizeof(Y)) == 0;
  const int power = out.power == nullptr ? 0 : *out.power;
  const int32_t n = n0 + warp_n + lane_index() % 4 * 2;
#pragma unroll
  for (int i = 0; i < kRowFragments; ++i)
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      const int32_t m = m0 + warp_m + i * 16 + lane_index() / 4 + which * 8;
      if (m >= M) continue;
      const int row_power = out.row_power == nullptr ? 0 : out.row_power[a.rows[m]];
      const PowerOfTwo back(kSplit || kUse == Use::kLogits ? 0 : -row_power - power);
      float unscaled = 1;
      if constexpr (kScaled) unscaled = K > 0 ? 1 / scale[m - m0] : 1;
      Y* row = static_cast<Y*>(out.data) + (out.rows == nullptr ? m : out.rows[m]) * out.stride + n;
#pragma unroll
      for (int j = 0; j < kColumnFragments; ++j) {
        float x[2];
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          x[c] = sum[i][j][which * 2 + c];
          if constexpr (kScaled) x[c] *= unscaled;
          else if constexpr (kUse != Use::kLogits && !kSplit) x[c] = back.times(x[c]);
          else if constexpr (kUse == Use::kLogits)
            if (out.bias != nullptr && n + j * 8 + c < N) x[c] += load_float(out.bias, out.bias_type, n + j * 8 + c);
        }
        store_two<kAdd>(row + j * 8, x[0], x[1], n + j * 8, N, paired);
      }
    }
}

// Whether the kernel's counts have room for a product's, and for the bytes of a row of its operands.
inline bool countable(const Matrix& a, const Matrix& b, int64_t M, int64_t N, int64_t K) {
  constexpr int64_t kMost = INT32_MAX - 2 * kMatrixSide;
  return M <= kMost && N <= kMost && K <= kMost && a.stride * 4 <= UINT32_MAX && b.stride * 2 <= UINT32_MAX;
}

template <Use kUse, class A, class T, class Y, int kLeft>
void launch_matmul(const Matrix& a, const Matrix& b, const Product& out, int64_t M, int64_t N, int64_t K,
                   const Extent& extent, const Choice& choice, const float* largest, Launch& on) {
  const int64_t blocks = ceil_div(M, kMatrixSide) * ceil_div(N, kMatrixSide);
  on(matmul_mma_kernel<kUse, A, T, Y, kLeft>, {blocks, kMatrixThreads<A>, sizeof(SharedOf<kUse, A, T>)}, a, b, out,
     static_cast<int32_t>(M), static_cast<int32_t>(N), static_cast<int32_t>(K), extent, choice, largest);
}

}  // namespace grpo::cuda
