#include "linear/halves.cuh"

#include <algorithm>

#include "blocks/reduce.cuh"
#include "blocks/powers.cuh"
#include "logits/logits.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp, kPiece = 8;
constexpr int64_t kMostBlocks = 2048;

struct Shared {
  uint32_t partial[kWarps];
};

struct Larger {
  __device__ __forceinline__ uint32_t operator()(uint32_t x, uint32_t y) const { return x > y ? x : y; }
};

// Bits of the magnitude of a number, 0 of infinity and NaN: as integers they are ordered as the numbers are.
__device__ __forceinline__ uint32_t magnitude_bits(float x) {
  return isfinite(x) ? __builtin_bit_cast(uint32_t, fabsf(x)) : 0;
}

// Eight numbers of 16 bits; whole: aligned to 16 bytes.
__device__ __forceinline__ void load_piece(const char* data, Float type, int64_t i, bool whole, float (&x)[kPiece]) {
  if (!whole) {
#pragma unroll
    for (int k = 0; k < kPiece; ++k) x[k] = load_float(data, type, i + k);
    return;
  }
  const Words4 words = *reinterpret_cast<const Words4*>(data + 2 * i);
  if (type == Float::kBf16) unpack<bf16>(words, x);
  else unpack<f16>(words, x);
}

__device__ __forceinline__ bool whole_pieces(const char* data, int64_t stride) {
  return aligned16(data) && stride % kPiece == 0;
}

// visit(row, column, numbers) for the thread's share of the pieces of the head.
template <class Visit>
__device__ __forceinline__ void for_pieces(const Linear& linear, Visit visit) {
  const int64_t pieces = linear.D / kPiece, all = linear.V * pieces;
  const bool whole = whole_pieces(linear.head, linear.head_stride);
  for (int64_t n = thread_index(); n < all; n += int64_t{gridDim.x} * kThreads) {
    const int64_t row = n / pieces, column = n % pieces * kPiece;
    float x[kPiece];
    load_piece(linear.head, linear.head_type, row * linear.head_stride + column, whole, x);
    visit(row, column, x);
  }
}

// Grid: ceil(V D / 2,048), at most 2,048. Block: 256. Shared: 32. Work: 2 bytes per number. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    head_largest_kernel(Linear linear,
                        uint32_t* largest) {  // [1], 0 before
  DYN_SMEM(Shared, shared);
  uint32_t own = 0;
  for_pieces(linear, [&](int64_t, int64_t, const float(&x)[kPiece]) {
#pragma unroll
    for (int k = 0; k < kPiece; ++k) own = Larger{}(own, magnitude_bits(x[k]));
  });
  own = block_reduce(own, shared.partial, Larger{});
  if (threadIdx.x == 0) atomicMax(largest, own);
}

// Grid: ceil(V D / 2,048), at most 2,048. Block: 256. Shared: 32. Work: 4 bytes per number. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    halve_head_kernel(Linear linear, const uint32_t* largest,
                      f16* head,        // [V,D]
                      int32_t* power,   // [1]
                      uint32_t* lossy)  // [1], 0 before: numbers that f16 does not hold
{
  DYN_SMEM(Shared, shared);
  const int own_power = power_for(__builtin_bit_cast(float, *largest));
  if (thread_index() == 0) *power = own_power;
  const PowerOfTwo factor(own_power);
  uint32_t own = 0;
  for_pieces(linear, [&](int64_t row, int64_t column, float(&x)[kPiece]) {
#pragma unroll
    for (int k = 0; k < kPiece; ++k) {
      x[k] = factor.times(x[k]);
      own += to_float(from_float<f16>(x[k])) != x[k] && x[k] == x[k];
    }
    *reinterpret_cast<Words4*>(head + row * linear.D + column) = packed<f16>(x);
  });
  own = block_sum(own, shared.partial);
  if (threadIdx.x == 0 && own > 0) atomicAdd(lossy, own);
}

// The exponent of the largest number of each row without its gradient's power, and the largest of those.
// Grid: rows of the chunk. Block: 256. Shared: 32. Work: 2 bytes per number. Bound: memory.
__global__ void __launch_bounds__(kThreads) hidden_largest_kernel(LinearChunk chunk, Linear linear) {
  DYN_SMEM(Shared, shared);
  const int64_t j = blockIdx.x;
  if (j >= *chunk.kept_count || chunk.choice.skips()) return;
  const int64_t row = int64_t{chunk.kept_row[j]} * linear.hidden_stride;
  const bool whole = whole_pieces(linear.hidden, linear.hidden_stride);
  uint32_t own = 0;
  for (int64_t d = threadIdx.x * kPiece; d < linear.D; d += kThreads * kPiece) {
    float x[kPiece];
    load_piece(linear.hidden, linear.hidden_type, row + d, whole, x);
#pragma unroll
    for (int k = 0; k < kPiece; ++k) own = Larger{}(own, magnitude_bits(x[k]));
  }
  own = block_reduce(own, shared.partial, Larger{});
  if (threadIdx.x != 0 || own == 0) return;
  const int exponent = 14 - power_for(__builtin_bit_cast(float, own));
  atomicMax(chunk.hidden_exponent, exponent - chunk.power[chunk.kept[j]]);
}

// Grid: rows of the chunk. Block: 256. Shared: 0. Work: 4 bytes per number. Bound: memory.
__global__ void __launch_bounds__(kThreads) halve_hidden_kernel(LinearChunk chunk, Linear linear) {
  const int64_t j = blockIdx.x;
  if (j >= *chunk.kept_count || chunk.choice.skips()) return;
  const int exponent = *chunk.hidden_exponent, power = exponent == kNoExponent ? 0 : 14 - exponent;
  if (j == 0 && threadIdx.x == 0) *chunk.hidden_power = power;
  const int own = power - chunk.power[chunk.kept[j]];
  const PowerOfTwo factor(own > -2 * kMostPower ? own : -2 * kMostPower);  // which leaves 0, like smaller ones
  const int64_t row = int64_t{chunk.kept_row[j]} * linear.hidden_stride;
  const bool whole = whole_pieces(linear.hidden, linear.hidden_stride);
  for (int64_t d = threadIdx.x * kPiece; d < linear.D; d += kThreads * kPiece) {
    float x[kPiece];
    load_piece(linear.hidden, linear.hidden_type, row + d, whole, x);
#pragma unroll
    for (int k = 0; k < kPiece; ++k) x[k] = factor.times(x[k]);
    *reinterpret_cast<Words4*>(chunk.hidden + j * linear.D + d) = packed<f16>(x);
  }
}

}  // namespace

bool by_halves(const Linear& linear, const LinearGradients& gradients, int64_t rows) {
  const auto narrow = [](const char* gradient, Float type) { return gradient == nullptr || type == Float::kBf16; };
  constexpr int64_t kMost = INT32_MAX / 8;  // what matmul_of_halves counts
  const bool suits = linear.head_type == Float::kBf16 ||  // is copied
                     aligned({linear.head, linear.head_type, linear.head_stride, nullptr, true});
  return (gradients.hidden != nullptr || gradients.head != nullptr) && linear.hidden_type != Float::kF32 &&
         linear.head_type != Float::kF32 && narrow(gradients.hidden, gradients.hidden_type) &&
         narrow(gradients.head, gradients.head_type) && linear.bias == nullptr && linear.D > 0 &&
         linear.D % kPiece == 0 && suits && linear.D <= kMost && linear.V <= kMost && rows <= kMost;
}

void halve_head(const Linear& linear, const LinearChunk& chunk, Launch& on) {
  if (chunk.halved_head == nullptr) return;
  on.zero(chunk.head_words, 3 * int64_t{sizeof(uint32_t)});
  const int64_t blocks = std::min(kMostBlocks, ceil_div(linear.V * (linear.D / kPiece), kThreads));
  on(head_largest_kernel, {blocks, kThreads, sizeof(Shared)}, linear, chunk.head_words);
  on(halve_head_kernel, {blocks, kThreads, sizeof(Shared)}, linear, chunk.head_words, chunk.halved_head,
     reinterpret_cast<int32_t*>(chunk.head_words + 1), chunk.head_words + 2);
}

void halve_hidden(const Linear& linear, const LinearChunk& chunk, Launch& on) {
  on(hidden_largest_kernel, {chunk.rows, kThreads, sizeof(Shared)}, chunk, linear);
  on(halve_hidden_kernel, {chunk.rows, kThreads}, chunk, linear);
}

}  // namespace grpo::cuda
