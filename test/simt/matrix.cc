// ldmatrix and mma.m16n8k16. Layouts as in the PTX manual ("Warp-level matrix load instruction: ldmatrix", "Matrix
// fragments for mma.m16n8k16 with floating point type"), with g = lane / 4 and t = lane % 4:
//
//   ldmatrix    the row j of matrix i is the 16 bytes that lane 8 i + j names. Register i of a lane has of matrix i
//                 elements [g][2t], [g][2t+1]     (low half, high half)
//                 elements [2t][g], [2t+1][g]     with .trans
//   a, 16 x 16  register 0: [g][2t], [g][2t+1]        1: [g+8][2t], [g+8][2t+1]
//                        2: [g][2t+8], [g][2t+9]      3: [g+8][2t+8], [g+8][2t+9]
//   b, 16 x 8   register 0: [2t][g], [2t+1][g]        1: [2t+8][g], [2t+9][g]
//   d, 16 x 8   number   0: [g][2t]   1: [g][2t+1]    2: [g+8][2t]   3: [g+8][2t+1]
//
// The manual does not say how the 16 products and d are added. Here: one after the other in float32, by rising k; with
// GRPO_SIMT_MMA=truncate as measured on GPUs, all at the scale of the largest and cut off, not rounded. A test of a
// kernel has to pass with both.
#include "matrix.hpp"

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "engine.hpp"

namespace simt {
namespace {

struct Load {
  const char* row;
  uint32_t* r;
  const void* where;
};
struct Multiply {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
  const void* where;
};

// .aligned: all lanes are at the same instruction, which the compiler may have copied.
template <class Call>
void check_aligned(const Lanes& lanes, const char* name) {
  const void* first = static_cast<const Call*>(lanes.in[0])->where;
  for (uint32_t lane = 1; lane < 32; ++lane) {
    const void* where = static_cast<const Call*>(lanes.in[lane])->where;
    if (!same_place(where, first))
      fault("lanes at different collectives",
            SIMT_TEXT("%s: lane 0 is at %s, lane %u at %s", name, place(first).c_str(), lane, place(where).c_str()));
  }
}

template <bool kTransposed>
void load(Lanes& lanes) {
  check_aligned<Load>(lanes, "ldmatrix");
  uint16_t matrix[4][8][8];
  for (int row = 0; row < 32; ++row) {
    const Load& call = *static_cast<const Load*>(lanes.in[row]);
    const char* slot = current->block->slot;
    if (call.row < slot || call.row + 16 > slot + kSlotBytes)
      fault("shared out of bounds", SIMT_TEXT("ldmatrix of lane %d at %s reads outside the shared memory of its block", row,
                                         place(call.where).c_str()));
    if (reinterpret_cast<uintptr_t>(call.row) % 16 != 0)
      fault("misaligned", SIMT_TEXT("ldmatrix of lane %d at %s: its row is not aligned to 16 bytes", row,
                               place(call.where).c_str()));
    on_read(call.row, 16, lanes.thread[row], call.where);
    std::memcpy(matrix[row / 8][row % 8], call.row, 16);
  }
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const Load& call = *static_cast<const Load*>(lanes.in[lane]);
    const uint32_t g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const uint32_t low = kTransposed ? matrix[i][2 * t][g] : matrix[i][g][2 * t];
      const uint32_t high = kTransposed ? matrix[i][2 * t + 1][g] : matrix[i][g][2 * t + 1];
      call.r[i] = high << 16 | low;
    }
  }
}

template <bool kHalf>
float widened(uint32_t bits) {
  if constexpr (!kHalf) return std::bit_cast<float>(bits << 16);
  const uint32_t sign = (bits & 0x8000u) << 16, size = (bits & 0x7fffu) << 13;
  // The exponent's bias is 15 in one format and 127 in the other; a product also makes subnormals right.
  const uint32_t wide = (bits & 0x7c00u) == 0x7c00u ? size | 0x7f800000u
                                                    : std::bit_cast<uint32_t>(std::bit_cast<float>(size) * 0x1p112f);
  return std::bit_cast<float>(sign | wide);
}

bool truncating() {
  static const bool chosen = [] {
    const char* mode = std::getenv("GRPO_SIMT_MMA");
    return mode != nullptr && std::strcmp(mode, "truncate") == 0;
  }();
  return chosen;
}

// d + a b as one sum of 17 terms: each is cut off 24 bits below the largest, the result to float32.
float truncated_sum(float d, const float* a, const float (*b)[8], int column) {
  double terms[17] = {d}, largest = std::fabs(d);
  for (int k = 0; k < 16; ++k) {
    terms[k + 1] = static_cast<double>(a[k]) * b[k][column];
    if (!(std::fabs(terms[k + 1]) <= largest)) largest = std::fabs(terms[k + 1]);
  }
  double sum = 0;
  if (std::isfinite(largest) && largest > 0) {
    const double unit = std::ldexp(1.0, std::ilogb(largest) - 24);
    for (const double term : terms) sum += std::trunc(term / unit) * unit;
  } else {
    for (const double term : terms) sum += term;
  }
  const float rounded = static_cast<float>(sum);
  return std::isfinite(sum) && std::fabs(rounded) > std::fabs(sum) ? std::nextafter(rounded, 0.0f) : rounded;
}

template <bool kHalf>
void multiply(Lanes& lanes) {
  check_aligned<Multiply>(lanes, "mma");
  float a[16][16], b[16][8], d[16][8];
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const Multiply& call = *static_cast<const Multiply*>(lanes.in[lane]);
    const uint32_t g = lane / 4, t = lane % 4;
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t shift = 16 * half, k = 2 * t + half;
      for (uint32_t i = 0; i < 4; ++i) a[g + i % 2 * 8][k + i / 2 * 8] = widened<kHalf>(call.a[i] >> shift & 0xffffu);
      for (uint32_t i = 0; i < 2; ++i) b[k + i * 8][g] = widened<kHalf>(call.b[i] >> shift & 0xffffu);
    }
    for (uint32_t i = 0; i < 4; ++i) d[g + i / 2 * 8][2 * t + i % 2] = call.d[i];
  }
  for (int row = 0; row < 16; ++row) {
    if (truncating()) {
      float sums[8];
      for (int column = 0; column < 8; ++column) sums[column] = truncated_sum(d[row][column], a[row], b, column);
      std::memcpy(d[row], sums, sizeof sums);
    } else {
      for (int k = 0; k < 16; ++k)
        for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const Multiply& call = *static_cast<const Multiply*>(lanes.in[lane]);
    for (uint32_t i = 0; i < 4; ++i) call.d[i] = d[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
  }
}

}  // namespace

void ldmatrix(uint32_t* r, const void* row, bool transposed) {
  const void* where = SIMT_CALLER;
  const Load call{static_cast<const char*>(row), r, where};
  collective(transposed ? "ldmatrix_x4_trans" : "ldmatrix_x4", ~0u, &call, r, transposed ? load<true> : load<false>,
             false, where);
}

void mma_bf16(float* d, const uint32_t* a, const uint32_t* b) {
  const Multiply call{d, a, b, SIMT_CALLER};
  collective("mma (bf16)", ~0u, &call, d, multiply<false>, false, call.where);
}

void mma_f16(float* d, const uint32_t* a, const uint32_t* b) {
  const Multiply call{d, a, b, SIMT_CALLER};
  collective("mma (f16)", ~0u, &call, d, multiply<true>, false, call.where);
}

}  // namespace simt
