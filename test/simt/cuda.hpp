// The device language for g++: put in front of cuda/*.cu (-include) so that kernels compile unchanged. The compiler's
// -fsanitize=thread calls the interpreter at each load and store of theirs; what stands here is left out of that
// (no_sanitize) and reports its own accesses.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "barrier.hpp"
#include "cuda_types.hpp"
#include "device.hpp"
#include "ptx.hpp"
#include "simt.hpp"

#define GRPO_SIMT 1

// ---- qualifiers -----------------------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __align__(bytes) alignas(bytes)
#define __grid_constant__

// Code of this header: not instrumented, and a call of its own, so that its return address is a place in the kernel.
#define SIMT_DEVICE __attribute__((noinline, no_sanitize("thread")))

// ---- indices: functions by value; a reference into the interpreter would be an access of the kernel -----------------

#define threadIdx (uint3{::simt::thread_index(), 0u, 0u})
#define blockIdx (uint3{::simt::block_index(), 0u, 0u})
#define blockDim (uint3{::simt::block_threads(), 1u, 1u})
#define gridDim (uint3{::simt::grid_blocks(), 1u, 1u})
constexpr int warpSize = 32;

// A kernel declares its dynamic shared memory in this way only, once.
#define DYN_SMEM(Struct, name) \
  Struct& name = *static_cast<Struct*>(::simt::shared_memory(sizeof(Struct), alignof(Struct)))

// ---- barriers and fences --------------------------------------------------------------------------------------------

#define __syncthreads() ::simt::block_barrier()
#define __syncthreads_or(predicate) ::simt::block_barrier_or(predicate)
#define __syncthreads_and(predicate) ::simt::block_barrier_and(predicate)
#define __syncthreads_count(predicate) ::simt::block_barrier_count(predicate)
#define __threadfence() ((void)0)
#define __threadfence_block() ((void)0)
#define __threadfence_system() ((void)0)
#define __nanosleep(nanoseconds) ::simt::yield()
#define __trap() ::simt::trap()

// ---- warp collectives -----------------------------------------------------------------------------------------------

namespace simt {

template <class T>
concept Shuffled = std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8);

template <Shuffled T>
inline __attribute__((always_inline)) uint64_t to_bits(T value) {
  if constexpr (sizeof(T) == 4)
    return std::bit_cast<uint32_t>(value);
  else
    return std::bit_cast<uint64_t>(value);
}
template <Shuffled T>
inline __attribute__((always_inline)) T from_bits(uint64_t bits) {
  if constexpr (sizeof(T) == 4)
    return std::bit_cast<T>(static_cast<uint32_t>(bits));
  else
    return std::bit_cast<T>(bits);
}

}  // namespace simt

inline SIMT_DEVICE void __syncwarp(unsigned mask = ~0u) { simt::warp_barrier(mask, __builtin_return_address(0)); }

#define SIMT_SHUFFLE(name, kind, lane_type)                                                                      \
  template <simt::Shuffled T>                                                                                    \
  SIMT_DEVICE T name(unsigned mask, T value, lane_type lane, int width = 32) {                                   \
    return simt::from_bits<T>(simt::shuffle(#name, mask, simt::to_bits(value), simt::kind, static_cast<int>(lane), \
                                            width, __builtin_return_address(0)));                                \
  }
SIMT_SHUFFLE(__shfl_sync, kIndex, int)
SIMT_SHUFFLE(__shfl_up_sync, kUp, unsigned)
SIMT_SHUFFLE(__shfl_down_sync, kDown, unsigned)
SIMT_SHUFFLE(__shfl_xor_sync, kXor, int)
#undef SIMT_SHUFFLE

inline SIMT_DEVICE unsigned __ballot_sync(unsigned mask, int predicate) {
  return simt::vote("__ballot_sync", mask, predicate != 0, __builtin_return_address(0));
}
inline SIMT_DEVICE int __any_sync(unsigned mask, int predicate) {
  return simt::vote("__any_sync", mask, predicate != 0, __builtin_return_address(0)) != 0;
}
inline SIMT_DEVICE int __all_sync(unsigned mask, int predicate) {
  return simt::vote("__all_sync", mask, predicate != 0, __builtin_return_address(0)) == mask;
}
template <class T>
  requires(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8))
SIMT_DEVICE unsigned __match_any_sync(unsigned mask, T value) {
  return simt::match_any(mask, simt::to_bits(value), __builtin_return_address(0));
}

#define SIMT_REDUCE(name, T, kind)                                                                                 \
  inline SIMT_DEVICE T name(unsigned mask, T value) {                                                              \
    return static_cast<T>(                                                                                         \
        simt::reduce(#name, mask, static_cast<unsigned>(value), simt::kind, __builtin_return_address(0)));         \
  }
SIMT_REDUCE(__reduce_add_sync, int, kAdd)
SIMT_REDUCE(__reduce_add_sync, unsigned, kAdd)
SIMT_REDUCE(__reduce_min_sync, int, kMinSigned)
SIMT_REDUCE(__reduce_min_sync, unsigned, kMinUnsigned)
SIMT_REDUCE(__reduce_max_sync, int, kMaxSigned)
SIMT_REDUCE(__reduce_max_sync, unsigned, kMaxUnsigned)
SIMT_REDUCE(__reduce_and_sync, unsigned, kAnd)
SIMT_REDUCE(__reduce_or_sync, unsigned, kOr)
SIMT_REDUCE(__reduce_xor_sync, unsigned, kXorAll)
#undef SIMT_REDUCE

// ---- atomics: relaxed, on shared or global memory -------------------------------------------------------------------

#define SIMT_ATOMIC(name, T, expression)                            \
  inline SIMT_DEVICE T name(T* address, T value) {                  \
    simt::on_atomic(address, sizeof(T), __builtin_return_address(0)); \
    const T old = *address;                                         \
    *address = expression;                                          \
    return old;                                                     \
  }
#define SIMT_ATOMIC_INTEGER(T)                                  \
  SIMT_ATOMIC(atomicAdd, T, static_cast<T>(old + value))        \
  SIMT_ATOMIC(atomicMax, T, old > value ? old : value)          \
  SIMT_ATOMIC(atomicMin, T, old < value ? old : value)          \
  SIMT_ATOMIC(atomicExch, T, value)                             \
  SIMT_ATOMIC(atomicOr, T, old | value)                         \
  SIMT_ATOMIC(atomicAnd, T, old & value)                        \
  SIMT_ATOMIC(atomicXor, T, old ^ value)                        \
  inline SIMT_DEVICE T atomicCAS(T* address, T compare, T value) { \
    simt::on_atomic(address, sizeof(T), __builtin_return_address(0)); \
    const T old = *address;                                     \
    if (old == compare) *address = value;                       \
    return old;                                                 \
  }
SIMT_ATOMIC_INTEGER(int)
SIMT_ATOMIC_INTEGER(unsigned)
SIMT_ATOMIC_INTEGER(unsigned long long)
SIMT_ATOMIC(atomicAdd, float, old + value)
SIMT_ATOMIC(atomicAdd, double, old + value)
SIMT_ATOMIC(atomicExch, float, value)
inline SIMT_DEVICE unsigned atomicInc(unsigned* address, unsigned limit) {
  simt::on_atomic(address, sizeof(unsigned), __builtin_return_address(0));
  const unsigned old = *address;
  *address = old >= limit ? 0 : old + 1;
  return old;
}
#undef SIMT_ATOMIC_INTEGER
#undef SIMT_ATOMIC

// ---- loads and stores with cache hints: plain ones, seen as such ----------------------------------------------------

#define __ldg(address) (*(address))
#define __ldcs(address) (*(address))
#define __ldcg(address) (*(address))
#define __ldca(address) (*(address))
#define __ldlu(address) (*(address))
#define __stcs(address, value) ((void)(*(address) = (value)))
#define __stcg(address, value) ((void)(*(address) = (value)))

// ---- bits -----------------------------------------------------------------------------------------------------------

SIMT_PURE int __popc(unsigned x) { return std::popcount(x); }
SIMT_PURE int __popcll(unsigned long long x) { return std::popcount(x); }
SIMT_PURE int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
SIMT_PURE int __ffsll(long long x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned long long>(x)) + 1; }
SIMT_PURE int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
SIMT_PURE int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
SIMT_PURE unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1u) << (31 - i);
  return reversed;
}
SIMT_PURE unsigned __umulhi(unsigned x, unsigned y) {
  return static_cast<unsigned>(static_cast<uint64_t>(x) * y >> 32);
}
SIMT_PURE unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(x) * y >> 64);
}
SIMT_PURE unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>(((static_cast<uint64_t>(high) << 32 | low) << (shift & 31)) >> 32);
}
SIMT_PURE unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (shift & 31));
}
SIMT_PURE unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned choice = selector >> (4 * i) & 15u;
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (choice & 7u)) & 0xffu);
    if ((choice & 8u) != 0) byte = (byte & 0x80u) != 0 ? 0xffu : 0;
    result |= byte << (8 * i);
  }
  return result;
}

SIMT_PURE unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
SIMT_PURE int __float_as_int(float x) { return std::bit_cast<int>(x); }
SIMT_PURE float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
SIMT_PURE float __int_as_float(int x) { return std::bit_cast<float>(x); }
SIMT_PURE long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
SIMT_PURE double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
SIMT_PURE int __double2hiint(double x) { return static_cast<int>(std::bit_cast<uint64_t>(x) >> 32); }
SIMT_PURE int __double2loint(double x) { return static_cast<int>(std::bit_cast<uint64_t>(x)); }

// ---- arithmetic -----------------------------------------------------------------------------------------------------

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }

#define __fmaf_rn(x, y, z) fmaf(x, y, z)
#define __fma_rn(x, y, z) fma(x, y, z)
SIMT_PURE float __fadd_rn(float x, float y) { return x + y; }
SIMT_PURE float __fsub_rn(float x, float y) { return x - y; }
SIMT_PURE float __fmul_rn(float x, float y) { return x * y; }
SIMT_PURE float __fdiv_rn(float x, float y) { return x / y; }
SIMT_PURE double __dadd_rn(double x, double y) { return x + y; }
SIMT_PURE double __dsub_rn(double x, double y) { return x - y; }
SIMT_PURE double __dmul_rn(double x, double y) { return x * y; }
SIMT_PURE double __ddiv_rn(double x, double y) { return x / y; }
#define __fsqrt_rn(x) sqrtf(x)
#define __frcp_rn(x) (1.0f / (x))
#define __fdividef(x, y) ((x) / (y))
SIMT_PURE float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; }

// As in CUDA: mixed integers compare as their common type, floating-point ones ignore a NaN.
template <class A, class B>
  requires(std::is_integral_v<A> && std::is_integral_v<B>)
SIMT_PURE std::common_type_t<A, B> min(A a, B b) {
  const std::common_type_t<A, B> x = a, y = b;
  return y < x ? y : x;
}
template <class A, class B>
  requires(std::is_integral_v<A> && std::is_integral_v<B>)
SIMT_PURE std::common_type_t<A, B> max(A a, B b) {
  const std::common_type_t<A, B> x = a, y = b;
  return x < y ? y : x;
}
inline float min(float x, float y) { return fminf(x, y); }
inline float max(float x, float y) { return fmaxf(x, y); }
inline double min(double x, double y) { return fmin(x, y); }
inline double max(double x, double y) { return fmax(x, y); }
inline double min(float x, double y) { return fmin(x, y); }
inline double max(float x, double y) { return fmax(x, y); }
inline double min(double x, float y) { return fmin(x, y); }
inline double max(double x, float y) { return fmax(x, y); }

#if __has_include("runtime.hpp")
#include "runtime.hpp"
#endif
