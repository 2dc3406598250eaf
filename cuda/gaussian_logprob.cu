// Log-probability of vectors under isotropic Gaussians, and the regulated log-ratio of GRPO-Guard, with their
// gradient.
//
// One warp per piece of a row (gaussian/rows.cuh). Sums are float64. Rows of more than a piece take a second launch, one
// warp per row, which adds the pieces. Forward 8 bytes per element (12 with old_mean), backward 12 (16); masked rows, and rows whose
// gradients are 0, are not read.
#include "gaussian/rows.cuh"
#include "launch/operation.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr double kHalfLog2Pi = 0.91893853320467274178;

struct Sums {
  double squares, products;
};

struct Rows {
  const float* x;         // [T,D]
  const float* mean;      // [T,D]
  const float* std;       // [T]
  const float* old_mean;  // [T,D], null where nothing needs it
  const uint8_t* mask;    // [T], may be null
  int64_t T, D;
  int64_t pieces;  // of a row, at least 1
};

__device__ __forceinline__ void write_row(const Rows& rows, int64_t t, bool nothing, Sums row,
                                          float* logp,         // [T], may be null
                                          float* log_ratio) {  // [T], may be null
  const double s = nothing ? 1 : positive(rows.std[t]), n = static_cast<double>(rows.D);
  if (logp != nullptr)
    logp[t] = nothing ? 0 : static_cast<float>(-row.squares / n / (2 * s * s) - log(s) - kHalfLog2Pi);
  if (log_ratio != nullptr) log_ratio[t] = nothing ? 0 : static_cast<float>(row.products / n / s);
}

__device__ __forceinline__ bool is_nothing(const Rows& rows, int64_t t) {
  return rows.D == 0 || (rows.mask != nullptr && rows.mask[t] == 0);
}

// Grid: ceil(T ceil(D / 2,048) / 8). Block: 256. Shared: 0. Work: 8 bytes per element, 12 with old_mean. Bound: memory.
template <bool kWithOld>
__global__ void __launch_bounds__(kThreads)
    gaussian_logprob_kernel(Rows rows,
                            float* logp,       // [T], may be null
                            float* log_ratio,  // [T], may be null
                            Sums* sums) {      // [T, pieces], null if a row is one piece
  const int64_t task = int64_t{blockIdx.x} * kWarps + warp_index();
  if (task >= rows.T * rows.pieces) return;
  const GaussianPiece piece = gaussian_piece(task, rows.pieces, rows.D);
  const bool nothing = is_nothing(rows, piece.row);
  double squares = 0, products = 0;
  if (!nothing) {
#pragma unroll 4
    for (int64_t i = piece.begin + lane_index(); i < piece.end; i += kWarp) {
      const double value = rows.x[i], center = rows.mean[i], off = value - center;
      squares += off * off;
      if constexpr (kWithOld) products += (value - rows.old_mean[i]) * (center - rows.old_mean[i]);
    }
  }
  squares = warp_reduce(squares, Add{});
  if constexpr (kWithOld) products = warp_reduce(products, Add{});
  if (lane_index() != 0) return;
  if (sums != nullptr) sums[task] = {squares, products};
  else write_row(rows, piece.row, nothing, {squares, products}, logp, log_ratio);
}

// Grid: ceil(T / 8). Block: 256. Shared: 0. Work: 16 bytes per piece, 8 per row. Bound: latency.
__global__ void __launch_bounds__(kThreads)
    join_pieces_kernel(Rows rows,
                       const Sums* sums,    // [T, pieces]
                       float* logp,         // [T], may be null
                       float* log_ratio) {  // [T], may be null
  const int64_t t = int64_t{blockIdx.x} * kWarps + warp_index();
  if (t >= rows.T) return;
  Sums row{0, 0};
  for (int64_t piece = lane_index(); piece < rows.pieces; piece += kWarp) {
    row.squares += sums[t * rows.pieces + piece].squares;
    row.products += sums[t * rows.pieces + piece].products;
  }
  row = {warp_reduce(row.squares, Add{}), warp_reduce(row.products, Add{})};
  if (lane_index() == 0) write_row(rows, t, is_nothing(rows, t), row, logp, log_ratio);
}

// grad_mean = a (x - mean) + b (x - old_mean)
// Grid: ceil(T ceil(D / 2,048) / 8). Block: 256. Shared: 0. Work: 12 bytes per element, 16 with old_mean. Bound:
// memory.
__global__ void __launch_bounds__(kThreads)
    gaussian_logprob_backward_kernel(Rows rows,
                                     const float* grad_logp,       // [T], may be null
                                     const float* grad_log_ratio,  // [T], may be null
                                     float* grad_mean,             // [T,D]
                                     double grad_scale) {
  const int64_t task = int64_t{blockIdx.x} * kWarps + warp_index();
  if (task >= rows.T * rows.pieces) return;
  const GaussianPiece piece = gaussian_piece(task, rows.pieces, rows.D);
  const bool live = !is_nothing(rows, piece.row);
  const double of_logp = live && grad_logp != nullptr ? grad_logp[piece.row] : 0;
  const double of_ratio = live && grad_log_ratio != nullptr ? grad_log_ratio[piece.row] : 0;
  const int64_t first = piece.begin + lane_index();
  if (of_logp == 0 && of_ratio == 0) {
    for (int64_t i = first; i < piece.end; i += kWarp) grad_mean[i] = 0;
    return;
  }
  const double s = positive(rows.std[piece.row]), d = static_cast<double>(rows.D);
  const double a = grad_scale * of_logp / (s * s * d), b = grad_scale * of_ratio / (s * d);
  if (of_ratio == 0) {
#pragma unroll 4
    for (int64_t i = first; i < piece.end; i += kWarp)
      grad_mean[i] = static_cast<float>(a * (double{rows.x[i]} - rows.mean[i]));
  } else {
#pragma unroll 4
    for (int64_t i = first; i < piece.end; i += kWarp) {
      const double value = rows.x[i];
      grad_mean[i] = static_cast<float>(a * (value - rows.mean[i]) + b * (value - rows.old_mean[i]));
    }
  }
}

template <class Args>
Rows rows_of(const Args& args, const Axes& axes) {
  return {data<float>(args.x),
          data<float>(args.mean),
          data<float>(args.std),
          data<float>(args.old_mean),
          data<uint8_t>(args.mask),
          axes['T'],
          axes['D'],
          gaussian_pieces(axes['D'])};
}

int run(const grpo_gaussian_logprob_args& args, const Axes& axes, Launch& on) {
  const Rows rows = rows_of(args, axes);
  float* logp = data<float>(args.logp);
  float* log_ratio = args.old_mean == nullptr ? nullptr : data<float>(args.log_ratio);
  if (logp == nullptr && log_ratio == nullptr) return GRPO_OK;
  Sums* sums = rows.pieces > 1 ? on.scratch<Sums>(rows.T * rows.pieces) : nullptr;
  on(log_ratio != nullptr ? gaussian_logprob_kernel<true> : gaussian_logprob_kernel<false>,
     {ceil_div(rows.T * rows.pieces, kWarps), kThreads}, rows, logp, log_ratio, sums);
  if (sums != nullptr)
    on(join_pieces_kernel, {ceil_div(rows.T, kWarps), kThreads}, rows, sums, logp, log_ratio);
  return GRPO_OK;
}

int run(const grpo_gaussian_logprob_backward_args& args, const Axes& axes, Launch& on) {
  if (args.grad_logp == nullptr && args.grad_log_ratio == nullptr)
    return fail(GRPO_MISSING, "grad_logp", "is missing, expected it or {grad_log_ratio}");
  if (args.grad_log_ratio != nullptr && args.old_mean == nullptr)
    return fail(GRPO_MISSING, "old_mean", "is missing, expected that of the rollout, since {grad_log_ratio} is given");
  if (args.grad_mean == nullptr) return GRPO_OK;
  const Rows rows = rows_of(args, axes);
  on(gaussian_logprob_backward_kernel, {ceil_div(rows.T * rows.pieces, kWarps), kThreads}, rows,
     data<float>(args.grad_logp), data<float>(args.grad_log_ratio), data<float>(args.grad_mean), args.grad_scale);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kGaussianLogprob, gaussian_logprob);
GRPO_CUDA_OPERATION(kGaussianLogprobBackward, gaussian_logprob_backward);

}  // namespace grpo::cuda
