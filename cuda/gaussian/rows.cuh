// The rows of Gaussian policies, cut into pieces: one warp per piece, so that a few long rows use the whole GPU and the
// bits of a row depend on nothing but its own values.
#pragma once

#include "blocks/lanes.cuh"

namespace grpo::cuda {

constexpr int64_t kGaussianPiece = 2048;  // elements

struct GaussianPiece {
  int64_t row, begin, end;  // of elements of [T,D]
};

// Of a row, at least 1.
inline int64_t gaussian_pieces(int64_t D) { return D > kGaussianPiece ? (D + kGaussianPiece - 1) / kGaussianPiece : 1; }

__device__ __forceinline__ GaussianPiece gaussian_piece(int64_t task, int64_t pieces, int64_t D) {
  const int64_t row = task / pieces, begin = (task - row * pieces) * kGaussianPiece;
  return {row, row * D + begin, row * D + (begin + kGaussianPiece < D ? begin + kGaussianPiece : D)};
}

// What a density is not defined for becomes NaN, so that it shows in every result of its row.
__device__ __forceinline__ double positive(float std) { return std > 0 ? std : NAN; }

}  // namespace grpo::cuda
