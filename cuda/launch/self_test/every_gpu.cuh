// The part of the self-test that every GPU can run.
#pragma once

#include "launch/self_test/pattern.cuh"

namespace grpo::cuda {
namespace {

// ---- number formats -------------------------------------------------------------------------------------------------

__global__ void convert_kernel(uint32_t* words, const uint32_t*) {  // [6][32]
  const uint32_t lane = threadIdx.x;
  const float x = special(lane), y = special((lane + 5) % kLanes);
  const bf16 b = from_float<bf16>(x);
  const f16 h = from_float<f16>(x);
  words[lane] = uint32_t{b.bits} << 16 | h.bits;
  words[32 + lane] = float_bits(to_float(b));
  words[64 + lane] = float_bits(to_float(h));
  words[96 + lane] = pack2<bf16>(x, y);
  words[128 + lane] = pack2<f16>(x, y);
  words[160 + lane] = uint32_t{f16_bits(x)} << 16 | bf16_bits(x);
}

// ---- copies by threads ----------------------------------------------------------------------------------------------

struct CopyShared {
  alignas(16) uint32_t first[kLanes][4], second[kLanes][4];
  uint32_t single[kLanes];
};

__global__ void cp_async_kernel(uint32_t* words, const uint32_t* input) {  // [10][32]
  DYN_SMEM(CopyShared, s);
  const uint32_t lane = threadIdx.x;
  for (uint32_t i = 0; i < 4; ++i) s.second[lane][i] = ~0u;
  s.single[lane] = ~0u;
  cp_async16(s.first[lane], input + 4 * lane, true);
  cp_async_commit();
  cp_async16(s.second[lane], input + 128 + 4 * lane, lane % 3 != 0);
  cp_async4(&s.single[lane], input + 256 + lane, lane % 4 != 1);
  cp_async_commit();
  cp_async_wait<1>();
  for (uint32_t i = 0; i < 4; ++i) words[i * kLanes + lane] = s.first[lane][i];
  cp_async_wait<0>();
  for (uint32_t i = 0; i < 4; ++i) words[(4 + i) * kLanes + lane] = s.second[lane][i];
  words[8 * kLanes + lane] = s.single[lane];
  words[9 * kLanes + lane] = shared_address(&s.single[lane]) - shared_address(&s);
}

// ---- matrices -------------------------------------------------------------------------------------------------------

struct MatrixShared {
  alignas(16) uint16_t rows[kLanes][8];
};

__global__ void ldmatrix_kernel(uint32_t* words, const uint32_t*) {  // [8][32]
  DYN_SMEM(MatrixShared, s);
  const uint32_t lane = threadIdx.x;
  for (uint32_t i = 0; i < 8; ++i) s.rows[lane][i] = static_cast<uint16_t>(lane << 8 | i);
  __syncthreads();
  const uint16_t* row = s.rows[(lane + 3) % kLanes];  // any row of shared memory, not only the next one
  uint32_t r[4], t[4];
  ldmatrix_x4(r, row);
  ldmatrix_x4_trans(t, row);
  for (uint32_t i = 0; i < 4; ++i) words[i * kLanes + lane] = r[i], words[(4 + i) * kLanes + lane] = t[i];
}

// Small integers: every sum is exact, in whichever order.
template <class T>
__device__ __forceinline__ uint32_t two_integers(uint32_t seed, int modulus) {
  const int low = static_cast<int>(seed * 7 % modulus), high = static_cast<int>(seed * 11 % modulus);
  return pack2<T>(static_cast<float>(low - modulus / 2), static_cast<float>(high - modulus / 2));
}

template <class T>
__global__ void mma_kernel(uint32_t* words, const uint32_t*) {  // [4][32]
  const uint32_t lane = threadIdx.x;
  uint32_t a[4], b[2];
  float d[4];
  for (uint32_t i = 0; i < 4; ++i) {
    a[i] = two_integers<T>(lane * 4 + i + 1, 13);
    d[i] = static_cast<float>(lane * 4 + i);
  }
  for (uint32_t i = 0; i < 2; ++i) b[i] = two_integers<T>(lane * 2 + i + 5, 11);
  mma_16x8x16<T>(d, a, b);
  for (uint32_t i = 0; i < 4; ++i) words[i * kLanes + lane] = __float_as_uint(d[i]);
}

// ---- barriers, hand-over, memory ------------------------------------------------------------------------------------

struct NamedShared {
  uint32_t value[64];
};

__global__ void named_barrier_kernel(uint32_t* words, const uint32_t*) {  // [96 threads]
  DYN_SMEM(NamedShared, s);
  const uint32_t thread = threadIdx.x;
  if (thread >= 64) {  // a warp that has no part in it
    words[thread] = thread;
    return;
  }
  s.value[thread] = thread * thread;
  named_barrier(3, 64);
  words[thread] = s.value[63 - thread];
}

// Zeroed before: counters in words 64 and 65. Every block adds, and the last one reads what the others left.
__global__ void hand_over_kernel(uint32_t* words, const uint32_t*) {  // [66], 32 blocks of 32
  if (threadIdx.x != 0) return;
  words[blockIdx.x] = pattern(blockIdx.x);
  release_add(words + 64, 2);
  if (acquire_release_add(words + 65, 1) != gridDim.x - 1) return;
  for (uint32_t i = 0; i < gridDim.x; ++i) words[32 + i] = words[i] + acquire_load(words + 64);
}

__global__ void stream_kernel(uint32_t* words, const uint32_t* input) {  // [8][32]
  const uint32_t lane = threadIdx.x;
  store_stream(words + lane, load_stream(input + lane));
  store_stream(reinterpret_cast<Pair*>(words + 32) + lane, load_stream(reinterpret_cast<const Pair*>(input) + lane));
  store_stream(reinterpret_cast<Four*>(words + 96) + lane, load_stream(reinterpret_cast<const Four*>(input) + lane));
  const auto* halves = reinterpret_cast<const bf16*>(input + 512);
  auto* to = reinterpret_cast<bf16*>(words + 224);
  store_stream(to + lane, load_stream(halves + lane));
  store_stream(to + 32 + lane, load_stream(halves + 63 - lane));
}

// 0: within 2^-21, else the bits of the result.
__device__ __forceinline__ uint32_t off(float got, double exact) {
  const double error = static_cast<double>(got) - exact;
  return (error < 0 ? -error : error) <= exact * 0x1p-21 ? 0 : __float_as_uint(got);
}

__global__ void approximate_kernel(uint32_t* words, const uint32_t*) {  // [4][32]
  const uint32_t lane = threadIdx.x;
  const float x = (static_cast<float>(lane) - 15.7f) * 3.1f, positive = 0.03f + static_cast<float>(lane * lane) * 0.37f;
  words[lane] = off(exp2_approx(x), exp2(static_cast<double>(x)));
  words[32 + lane] = off(rcp_approx(positive), 1.0 / positive);
  const float edge = special(lane);
  // Zeros, infinities and subnormals are exact.
  const bool exact = edge == 0 || edge - edge != 0 || fabsf(edge) < 0x1p-126f;
  words[64 + lane] = exact ? float_bits(exp2_approx(edge)) : 0;
  words[96 + lane] = exact ? float_bits(rcp_approx(edge)) : 0;
}

}  // namespace
}  // namespace grpo::cuda
