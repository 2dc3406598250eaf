// KL of isotropic Gaussians to others with the same standard deviation, a row each, and its gradient with respect to the
// mean.
//
// One warp per piece of a row (gaussian/rows.cuh). Sums are float64. Rows of more than a piece take a second launch, one
// warp per row, which adds the pieces. Forward 8 bytes per element, backward 12, 16 where it accumulates; masked rows,
// and rows whose gradient is 0, are not read.
#include "gaussian/rows.cuh"
#include "launch/operation.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

struct Rows {
  const float* mean;      // [T,D]
  const float* ref_mean;  // [T,D]
  const float* std;       // [T]
  const uint8_t* mask;    // [T], may be null
  int64_t T, D;
  int64_t pieces;  // of a row, at least 1
};

__device__ __forceinline__ bool is_nothing(const Rows& rows, int64_t t) {
  return rows.D == 0 || (rows.mask != nullptr && rows.mask[t] == 0);
}

__device__ __forceinline__ float kl_of(const Rows& rows, int64_t t, double squares) {
  if (is_nothing(rows, t)) return 0;
  const double s = positive(rows.std[t]);
  return static_cast<float>(squares / static_cast<double>(rows.D) / (2 * s * s));
}

// Grid: ceil(T ceil(D / 2,048) / 8). Block: 256. Shared: 0. Work: 8 bytes per element. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    gaussian_kl_kernel(Rows rows,
                       float* kl,       // [T]
                       double* sums) {  // [T, pieces], null if a row is one piece
  const int64_t task = int64_t{blockIdx.x} * kWarps + warp_index();
  if (task >= rows.T * rows.pieces) return;
  const GaussianPiece piece = gaussian_piece(task, rows.pieces, rows.D);
  double squares = 0;
  if (!is_nothing(rows, piece.row)) {
#pragma unroll 4
    for (int64_t i = piece.begin + lane_index(); i < piece.end; i += kWarp) {
      const double off = double{rows.mean[i]} - rows.ref_mean[i];
      squares += off * off;
    }
  }
  squares = warp_reduce(squares, Add{});
  if (lane_index() != 0) return;
  if (sums != nullptr) sums[task] = squares;
  else kl[piece.row] = kl_of(rows, piece.row, squares);
}

// Grid: ceil(T / 8). Block: 256. Shared: 0. Work: 8 bytes per piece, 4 per row. Bound: latency.
__global__ void __launch_bounds__(kThreads)
    join_kl_pieces_kernel(Rows rows,
                          const double* sums,  // [T, pieces]
                          float* kl) {         // [T]
  const int64_t t = int64_t{blockIdx.x} * kWarps + warp_index();
  if (t >= rows.T) return;
  double squares = 0;
  for (int64_t piece = lane_index(); piece < rows.pieces; piece += kWarp) squares += sums[t * rows.pieces + piece];
  squares = warp_reduce(squares, Add{});
  if (lane_index() == 0) kl[t] = kl_of(rows, t, squares);
}

// grad_mean = or += factor (mean - ref_mean)
// Grid: ceil(T ceil(D / 2,048) / 8). Block: 256. Shared: 0. Work: 12 bytes per element, 16 where it accumulates. Bound:
// memory.
template <bool kAccumulate>
__global__ void __launch_bounds__(kThreads)
    gaussian_kl_backward_kernel(Rows rows,
                                const float* grad_kl,  // [T]
                                float* grad_mean,      // [T,D]
                                double grad_scale) {
  const int64_t task = int64_t{blockIdx.x} * kWarps + warp_index();
  if (task >= rows.T * rows.pieces) return;
  const GaussianPiece piece = gaussian_piece(task, rows.pieces, rows.D);
  const int64_t first = piece.begin + lane_index();
  const double gradient = is_nothing(rows, piece.row) ? 0 : double{grad_kl[piece.row]};
  if (gradient == 0) {
    if constexpr (!kAccumulate) {
      // Unrolled, nvcc 13.0 gives the kernel of sm_80 a stack frame.
#pragma unroll 1
      for (int64_t i = first; i < piece.end; i += kWarp) grad_mean[i] = 0;
    }
    return;
  }
  const double s = positive(rows.std[piece.row]);
  const double factor = grad_scale * gradient / (s * s * static_cast<double>(rows.D));
#pragma unroll 4
  for (int64_t i = first; i < piece.end; i += kWarp) {
    const double value = factor * (double{rows.mean[i]} - rows.ref_mean[i]);
    grad_mean[i] = static_cast<float>(kAccumulate ? grad_mean[i] + value : value);
  }
}

template <class Args>
Rows rows_of(const Args& args, const Axes& axes) {
  return {data<float>(args.mean),
          data<float>(args.ref_mean),
          data<float>(args.std),
          data<uint8_t>(args.mask),
          axes['T'],
          axes['D'],
          gaussian_pieces(axes['D'])};
}

int run(const grpo_gaussian_kl_args& args, const Axes& axes, Launch& on) {
  float* kl = data<float>(args.kl);
  if (kl == nullptr) return GRPO_OK;
  const Rows rows = rows_of(args, axes);
  double* sums = rows.pieces > 1 ? on.scratch<double>(rows.T * rows.pieces) : nullptr;
  on(gaussian_kl_kernel, {ceil_div(rows.T * rows.pieces, kWarps), kThreads}, rows, kl, sums);
  if (sums != nullptr) on(join_kl_pieces_kernel, {ceil_div(rows.T, kWarps), kThreads}, rows, sums, kl);
  return GRPO_OK;
}

int run(const grpo_gaussian_kl_backward_args& args, const Axes& axes, Launch& on) {
  if (args.grad_mean == nullptr) return GRPO_OK;
  const Rows rows = rows_of(args, axes);
  on(args.accumulate != 0 ? gaussian_kl_backward_kernel<true> : gaussian_kl_backward_kernel<false>,
     {ceil_div(rows.T * rows.pieces, kWarps), kThreads}, rows, data<float>(args.grad_kl), data<float>(args.grad_mean),
     args.grad_scale);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kGaussianKl, gaussian_kl);
GRPO_CUDA_OPERATION(kGaussianKlBackward, gaussian_kl_backward);

}  // namespace grpo::cuda
