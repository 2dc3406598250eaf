// The only inline PTX of the project. Each function has a device body and a simulated one: a call into the interpreter
// of test/simt/ (ptx.hpp, matrix.hpp, approximate.hpp), which runs the same kernels on a CPU. test/simt/self_test runs
// every function of this file with a fixed pattern, so that the two bodies can be compared.
//
// What needs sm_90 traps on older GPUs: kernels that use it are launched there only. Of what no kernel calls,
// rcp_approx and load_stream wait for the next ones; named_barrier, mbarrier_arrive, bulk_store and its waits,
// proxy_fence, acquire_load and release_add are what the interpreter is held to by test/simt/faults.
#pragma once

#include <cstdint>
#include <type_traits>

#ifndef __CUDACC__
#include "test/simt/approximate.hpp"
#include "test/simt/matrix.hpp"
#include "test/simt/ptx.hpp"
#endif

// Clusters, mbarriers and bulk copies exist in the code that is being compiled.
#if !defined(__CUDACC__) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900)
#define GRPO_SM90 1
#else
#define GRPO_SM90 0
#endif

// The two bodies of a function: PTX, and what the interpreter does in its place.
#ifndef __CUDACC__
#define GRPO_PTX(device, ...) __VA_ARGS__
#define GRPO_PTX90(device, ...) __VA_ARGS__
#else
#define GRPO_PTX(device, ...) device
#if GRPO_SM90
#define GRPO_PTX90(device, ...) device
#else
#define GRPO_PTX90(device, ...) __trap()
#endif
#endif
#ifdef __CUDACC__
#define GRPO_INLINE __device__ __forceinline__
#else  // inlined at every level: the interpreter names the line of the kernel that calls
#define GRPO_INLINE inline __attribute__((always_inline))
#endif

// Dynamic shared memory, in a kernel: `DYN_SMEM(Struct, s);`. One struct per kernel names all of it.
#ifndef DYN_SMEM
#define DYN_SMEM(Struct, s)                                         \
  extern __shared__ __align__(1024) unsigned char dynamic_shared[]; \
  Struct& s = *reinterpret_cast<Struct*>(dynamic_shared)
#endif

namespace grpo::cuda {

// ---- number formats, on the host too --------------------------------------------------------------------------------

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

__host__ __device__ __forceinline__ float to_float(float x) { return x; }

__host__ __device__ __forceinline__ float to_float(bf16 x) { return __builtin_bit_cast(float, uint32_t{x.bits} << 16); }

__host__ __device__ __forceinline__ float to_float(f16 x) {
#ifdef __CUDA_ARCH__
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x.bits));
  return result;
#else
  const uint32_t sign = uint32_t{x.bits & 0x8000u} << 16, exponent = x.bits >> 10 & 31u, mantissa = x.bits & 0x3ffu;
  if (exponent == 31) return __builtin_bit_cast(float, sign | 0x7f800000u | mantissa << 13);
  if (exponent != 0) return __builtin_bit_cast(float, sign | (exponent + 112) << 23 | mantissa << 13);
  const float small = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -small : small;
#endif
}

__host__ __device__ __forceinline__ uint16_t bf16_bits(float x) {
#ifdef __CUDA_ARCH__
  uint16_t result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result) : "f"(x));
  return result;
#else
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;  // NaN: as the GPU writes it
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
#endif
}

__host__ __device__ __forceinline__ uint16_t f16_bits(float x) {
#ifdef __CUDA_ARCH__
  uint16_t result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result) : "f"(x));
  return result;
#else
  const uint32_t bits = __builtin_bit_cast(uint32_t, x), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
  uint32_t rounded;
  if (size > 0x7f800000u) return 0x7fff;  // NaN: as the GPU writes it
  else if (size >= 0x477ff000u) rounded = 0x7c00;  // from 65520 on infinity is nearest
  else if (size >= 0x38800000u) rounded = ((size + 0xfffu + (size >> 13 & 1u)) >> 13) - (112u << 10);
  // Subnormal, a multiple of 2^-24: added to 0.5, whose last bit is 2^-24, the hardware rounds there.
  else rounded = __builtin_bit_cast(uint32_t, __builtin_bit_cast(float, size) + 0.5f) - 0x3f000000u;
  return static_cast<uint16_t>(sign | rounded);
#endif
}

// To nearest, ties to even; NaN stays NaN, what is too large becomes infinite.
template <class T>
__host__ __device__ __forceinline__ T from_float(float x) {
  if constexpr (std::is_same_v<T, bf16>) return bf16{bf16_bits(x)};
  else if constexpr (std::is_same_v<T, f16>) return f16{f16_bits(x)};
  else return static_cast<T>(x);
}

// Two numbers in a register, as ldmatrix and mma have them: the first in the low half.
template <class T>
GRPO_INLINE uint32_t pack2(float low, float high) {
  static_assert(std::is_same_v<T, bf16> || std::is_same_v<T, f16>);
  uint32_t result;
  if constexpr (std::is_same_v<T, bf16>) {
    GRPO_PTX(asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low)),
             result = uint32_t{bf16_bits(high)} << 16 | bf16_bits(low));
  } else {
    GRPO_PTX(asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low)),
             result = uint32_t{f16_bits(high)} << 16 | f16_bits(low));
  }
  return result;
}

// ---- copies from global to shared memory by a thread ----------------------------------------------------------------

// Offset in the shared memory of the block.
GRPO_INLINE uint32_t shared_address(const void* shared) {
  GRPO_PTX(return static_cast<uint32_t>(__cvta_generic_to_shared(shared)), return ::simt::shared_address(shared));
}

// 16 bytes past the L1 cache; zeros where not valid, and `global` is not read then. Both are aligned to 16.
GRPO_INLINE void cp_async16(void* shared, const void* global, bool valid) {
  GRPO_PTX(asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                        "l"(__cvta_generic_to_global(global)), "r"(valid ? 16 : 0)
                        : "memory"),
           ::simt::cp_async(shared, global, 16, valid ? 16 : 0));
}
GRPO_INLINE void cp_async4(void* shared, const void* global, bool valid) {
  GRPO_PTX(asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)),
                        "l"(__cvta_generic_to_global(global)), "r"(valid ? 4 : 0)
                        : "memory"),
           ::simt::cp_async(shared, global, 4, valid ? 4 : 0));
}
GRPO_INLINE void cp_async_commit() {
  GRPO_PTX(asm volatile("cp.async.commit_group;" ::: "memory"), ::simt::cp_async_commit());
}
// Until at most N of the thread's groups are under way. Other threads' copies need a barrier after it.
template <int N>
GRPO_INLINE void cp_async_wait() {
  GRPO_PTX(asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"), ::simt::cp_async_wait(N));
}

// ---- matrices: all 32 lanes; the layouts are drawn in test/simt/matrix.cc -------------------------------------------

// 8 x 8 matrices of 16-bit numbers. Lane 8 i + j gives the address of row j of matrix i, 16 bytes, aligned to 16.
GRPO_INLINE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  GRPO_PTX(asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                        : "r"(shared_address(row))),
           ::simt::ldmatrix(r, row, false));
}
GRPO_INLINE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  GRPO_PTX(asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                        : "r"(shared_address(row))),
           ::simt::ldmatrix(r, row, true));
}

// d += a b: d 16 x 8 float32, a 16 x 16 by rows, b 16 x 8 by columns.
template <class T>
GRPO_INLINE void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static_assert(std::is_same_v<T, bf16> || std::is_same_v<T, f16>);
  if constexpr (std::is_same_v<T, bf16>) {
    GRPO_PTX(asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                          "{%8, %9}, {%0, %1, %2, %3};"
                          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])),
             ::simt::mma_bf16(d, a, b));
  } else {
    GRPO_PTX(asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                          "{%8, %9}, {%0, %1, %2, %3};"
                          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])),
             ::simt::mma_f16(d, a, b));
  }
}

// ---- mbarriers in the block's own shared memory ---------------------------------------------------------------------

GRPO_INLINE void mbarrier_init(uint64_t* barrier, uint32_t count) {
  GRPO_PTX90(asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count)
                          : "memory"),
             ::simt::mbarrier_init(barrier, count));
}
// After the last mbarrier_init, before the barrier of the block or cluster that lets others use them.
GRPO_INLINE void mbarrier_init_fence() {
  GRPO_PTX90(asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"), ::simt::mbarrier_init_fence());
}
GRPO_INLINE void mbarrier_arrive(uint64_t* barrier) {
  GRPO_PTX90(asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory"),
             ::simt::mbarrier_arrive(barrier));
}
// Arrives, and makes the phase wait for so many more bytes.
GRPO_INLINE void mbarrier_expect(uint64_t* barrier, uint32_t bytes) {
  GRPO_PTX90(asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
                          "r"(bytes)
                          : "memory"),
             ::simt::mbarrier_expect(barrier, bytes));
}
// Until the phase of that parity is over: 0 for the first, then 1, 0, ... For bulk copies and arrivals of the own
// block.
GRPO_INLINE void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
  GRPO_PTX90(asm volatile("{\n"
                          ".reg .pred done;\n"
                          "again:\n"
                          "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                          "@!done bra again;\n"
                          "}" ::"r"(shared_address(barrier)),
                          "r"(parity)
                          : "memory"),
             ::simt::mbarrier_wait(barrier, parity));
}
// The same where peers of the cluster have written, with st_async. Each wait also drops what the L1 cache has of global
// memory, which the other leaves alone.
GRPO_INLINE void mbarrier_wait_cluster(uint64_t* barrier, uint32_t parity) {
  GRPO_PTX90(asm volatile("{\n"
                          ".reg .pred done;\n"
                          "again:\n"
                          "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
                          "@!done bra again;\n"
                          "}" ::"r"(shared_address(barrier)),
                          "r"(parity)
                          : "memory"),
             ::simt::mbarrier_wait(barrier, parity));
}

// ---- clusters -------------------------------------------------------------------------------------------------------

GRPO_INLINE uint32_t cluster_rank() {
  uint32_t rank = 0;
  GRPO_PTX90(asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank)), rank = ::simt::cluster_rank());
  return rank;
}
GRPO_INLINE uint32_t cluster_size() {
  uint32_t size = 1;
  GRPO_PTX90(asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size)), size = ::simt::cluster_size());
  return size;
}
// Every thread of every block arrives, then waits: what came before the one is seen after the other.
GRPO_INLINE void cluster_arrive() {
  GRPO_PTX90(asm volatile("barrier.cluster.arrive.release;" ::: "memory"), ::simt::cluster_arrive());
}
GRPO_INLINE void cluster_wait() {
  GRPO_PTX90(asm volatile("barrier.cluster.wait.acquire;" ::: "memory"), ::simt::cluster_wait());
}
GRPO_INLINE void cluster_sync() {
  GRPO_PTX90(asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory"),
             (::simt::cluster_arrive(), ::simt::cluster_wait()));
}

// Where block `rank` of the cluster has what lies at `own` here. A block may not exit while others use the pointer.
template <class T>
GRPO_INLINE T* map_shared(T* own, uint32_t rank) {
  uint64_t mapped = 0;
  GRPO_PTX90(asm("mapa.u64 %0, %1, %2;" : "=l"(mapped) : "l"(own), "r"(rank)),
             mapped = reinterpret_cast<uint64_t>(::simt::map_shared(own, rank)));
  return reinterpret_cast<T*>(mapped);
}

// For pointers that map_shared returned.
GRPO_INLINE uint32_t cluster_address(const void* mapped) {
  uint64_t address = 0;
  GRPO_PTX90(asm("cvta.to.shared::cluster.u64 %0, %1;" : "=l"(address) : "l"(mapped)),
             address = ::simt::shared_address(mapped));
  return static_cast<uint32_t>(address);
}

struct alignas(16) Words4 {
  uint32_t x, y, z, w;
};

// Stores 4, 8 or 16 bytes in a peer's shared memory and counts them on the peer's barrier; both are map_shared of the
// same block, which expects the bytes.
template <class T>
GRPO_INLINE void st_async(T* peer, T value, uint64_t* peer_barrier) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
#ifndef __CUDACC__
  ::simt::st_async(peer, &value, sizeof(T), peer_barrier);
#else
  if constexpr (sizeof(T) == 4) {
    GRPO_PTX90(asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(
                                cluster_address(peer)),
                            "r"(__builtin_bit_cast(uint32_t, value)), "r"(cluster_address(peer_barrier))
                            : "memory"), );
  } else if constexpr (sizeof(T) == 8) {
    GRPO_PTX90(asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b64 [%0], %1, [%2];" ::"r"(
                                cluster_address(peer)),
                            "l"(__builtin_bit_cast(uint64_t, value)), "r"(cluster_address(peer_barrier))
                            : "memory"), );
  } else {
    GRPO_PTX90(asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];"
                            ::"r"(cluster_address(peer)),
                            "r"(__builtin_bit_cast(Words4, value).x), "r"(__builtin_bit_cast(Words4, value).y),
                            "r"(__builtin_bit_cast(Words4, value).z), "r"(__builtin_bit_cast(Words4, value).w),
                            "r"(cluster_address(peer_barrier))
                            : "memory"), );
  }
#endif
}

// ---- bulk copies: one thread issues them; addresses and sizes are multiples of 16 -----------------------------------

// Counts its bytes on the barrier, which expects them.
GRPO_INLINE void bulk_load(void* shared, const void* global, uint32_t bytes, uint64_t* barrier) {
  GRPO_PTX90(asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                          ::"r"(shared_address(shared)),
                          "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(shared_address(barrier))
                          : "memory"),
             ::simt::bulk_load(shared, global, bytes, barrier));
}
// What threads wrote to `shared` needs a proxy_fence by each of them, then a barrier, before it.
GRPO_INLINE void bulk_store(void* global, const void* shared, uint32_t bytes) {
  GRPO_PTX90(asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(
                              __cvta_generic_to_global(global)),
                          "r"(shared_address(shared)), "r"(bytes)
                          : "memory"),
             ::simt::bulk_store(global, shared, bytes));
}
GRPO_INLINE void bulk_commit() {
  GRPO_PTX90(asm volatile("cp.async.bulk.commit_group;" ::: "memory"), ::simt::bulk_commit());
}
// Until at most N of the thread's groups of bulk_store are under way; _read: have not read shared memory yet.
template <int N>
GRPO_INLINE void bulk_wait() {
  GRPO_PTX90(asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory"), ::simt::bulk_wait(N, false));
}
template <int N>
GRPO_INLINE void bulk_wait_read() {
  GRPO_PTX90(asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory"), ::simt::bulk_wait(N, true));
}
// Between a thread's accesses to shared memory and those of bulk copies.
GRPO_INLINE void proxy_fence() {
  GRPO_PTX90(asm volatile("fence.proxy.async.shared::cta;" ::: "memory"), ::simt::proxy_fence());
}

// ---- barriers, hand-over between blocks -----------------------------------------------------------------------------

// __syncthreads of `threads` threads, whole warps; id 1 to 15.
GRPO_INLINE void named_barrier(uint32_t id, uint32_t threads) {
  GRPO_PTX(asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"), ::simt::named_barrier(id, threads));
}

GRPO_INLINE uint32_t acquire_load(const uint32_t* address) {
  uint32_t value;
  GRPO_PTX(asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                        : "=r"(value)
                        : "l"(__cvta_generic_to_global(address))
                        : "memory"),
           value = ::simt::acquire_load(address));
  return value;
}
// Both return what was there before. A block that finds itself the last with the second may read the others' results;
// with the first it may not.
GRPO_INLINE uint32_t release_add(uint32_t* address, uint32_t value) {
  uint32_t before;
  GRPO_PTX(asm volatile("atom.add.release.gpu.global.u32 %0, [%1], %2;"
                        : "=r"(before)
                        : "l"(__cvta_generic_to_global(address)), "r"(value)
                        : "memory"),
           before = ::simt::release_add(address, value));
  return before;
}
GRPO_INLINE uint32_t acquire_release_add(uint32_t* address, uint32_t value) {
  uint32_t before;
  GRPO_PTX(asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;"
                        : "=r"(before)
                        : "l"(__cvta_generic_to_global(address)), "r"(value)
                        : "memory"),
           before = ::simt::acquire_release_add(address, value));
  return before;
}

// ---- fast functions: about 2 ulp off, subnormals count as 0 ---------------------------------------------------------

GRPO_INLINE float exp2_approx(float x) {
  float result;
  GRPO_PTX(asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x)), result = ::simt::exp2_approx(x));
  return result;
}
GRPO_INLINE float rcp_approx(float x) {
  float result;
  GRPO_PTX(asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x)), result = ::simt::rcp_approx(x));
  return result;
}

// ---- global memory that is touched once: first to leave the cache ---------------------------------------------------

// T of 2, 4, 8 or 16 bytes, aligned to its size. The kernel may not write what it loads so.
template <class T>
GRPO_INLINE T load_stream(const T* address) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
#ifndef __CUDACC__
  return *address;
#else
  const size_t global = __cvta_generic_to_global(address);
  if constexpr (sizeof(T) == 2) {
    uint16_t bits;
    asm volatile("ld.global.cs.u16 %0, [%1];" : "=h"(bits) : "l"(global));
    return __builtin_bit_cast(T, bits);
  } else if constexpr (sizeof(T) == 4) {
    uint32_t bits;
    asm volatile("ld.global.cs.u32 %0, [%1];" : "=r"(bits) : "l"(global));
    return __builtin_bit_cast(T, bits);
  } else if constexpr (sizeof(T) == 8) {
    uint64_t bits;
    asm volatile("ld.global.cs.u64 %0, [%1];" : "=l"(bits) : "l"(global));
    return __builtin_bit_cast(T, bits);
  } else {
    Words4 bits;
    asm volatile("ld.global.cs.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
                 : "l"(global));
    return __builtin_bit_cast(T, bits);
  }
#endif
}

template <class T>
GRPO_INLINE void store_stream(T* address, T value) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
#ifndef __CUDACC__
  *address = value;
#else
  const size_t global = __cvta_generic_to_global(address);
  if constexpr (sizeof(T) == 2) {
    asm volatile("st.global.cs.u16 [%0], %1;" ::"l"(global), "h"(__builtin_bit_cast(uint16_t, value)) : "memory");
  } else if constexpr (sizeof(T) == 4) {
    asm volatile("st.global.cs.u32 [%0], %1;" ::"l"(global), "r"(__builtin_bit_cast(uint32_t, value)) : "memory");
  } else if constexpr (sizeof(T) == 8) {
    asm volatile("st.global.cs.u64 [%0], %1;" ::"l"(global), "l"(__builtin_bit_cast(uint64_t, value)) : "memory");
  } else {
    const Words4 bits = __builtin_bit_cast(Words4, value);
    asm volatile("st.global.cs.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(global), "r"(bits.x), "r"(bits.y), "r"(bits.z),
                 "r"(bits.w)
                 : "memory");
  }
#endif
}

}  // namespace grpo::cuda
