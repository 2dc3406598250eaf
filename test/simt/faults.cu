// One small kernel per kind of bug that the interpreter must name. Each is correct if `right`, and wrong in one way if
// not. The line that a report has to name ends in a comment `// <kind>`; where the schedule decides between several,
// each has its comment.
#include "../../cuda/ptx.cuh"
#include "faults.hpp"

namespace {

using namespace grpo::cuda;

constexpr uint32_t kAll = 0xffffffffu;

struct alignas(128) Shared {
  float x[256];
  float y[256];
  alignas(16) float tile[256];
  uint64_t full[2];
  uint64_t empty[2];
  float peer[8];
  uint32_t word;
};

__device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x); }

// ---- barriers -------------------------------------------------------------------------------------------------------

__global__ void barrier_after_store(FaultArgs a) {
  DYN_SMEM(Shared, s);
  s.x[thread()] = a.in[thread()];  // race
  if (a.right) __syncthreads();
  a.out[thread()] = s.x[255 - thread()];  // race, uninitialised read
}

__global__ void barrier_before_refill(FaultArgs a) {
  DYN_SMEM(Shared, s);
  float sum = 0;
  for (int i = 0; i < 2; ++i) {
    s.x[thread()] = a.in[i * 256 + thread()];  // race
    __syncthreads();
    sum += s.x[255 - thread()];  // race
    if (a.right) __syncthreads();
  }
  a.out[thread()] = sum;
}

__global__ void divergent_barrier(FaultArgs a) {
  if (thread() < 40 || a.right) __syncthreads();  // deadlock
  a.out[thread()] = 1;
}

__global__ void named_barrier_counts(FaultArgs a) {
  named_barrier(1, a.right || thread() < 128 ? 256 : 128);  // barrier
  a.out[thread()] = 1;
}

__global__ void named_barrier_group(FaultArgs a) {
  DYN_SMEM(Shared, s);
  s.x[thread()] = a.in[thread()];
  named_barrier(1 + (a.right ? thread() / 128 : thread() / 32 % 4 / 2), 128);
  a.out[thread()] = s.x[thread() ^ 96];  // race, uninitialised read
}

// ---- warps ----------------------------------------------------------------------------------------------------------

__global__ void exchange_without_syncwarp(FaultArgs a) {
  DYN_SMEM(Shared, s);
  s.x[thread()] = a.in[thread()];  // race
  if (a.right) __syncwarp();
  a.out[thread()] = s.x[thread() ^ 1];  // race, uninitialised read
}

__global__ void exchange_behind_shuffle(FaultArgs a) {
  DYN_SMEM(Shared, s);
  s.x[thread()] = a.in[thread()];
  const float other = __shfl_xor_sync(kAll, 1.0f, 1);
  if (a.right) __syncwarp();
  a.out[thread()] = s.x[thread() ^ 1] + other;  // race
}

__global__ void shuffle_names_exited(FaultArgs a) {
  if (!a.right && thread() == 5) return;
  a.out[thread()] = __shfl_xor_sync(kAll, a.in[thread()], 1);  // collective names an exited lane
}

__global__ void shuffle_reads_inactive(FaultArgs a) {
  if (thread() % 32 < 16)
    a.out[thread()] = __shfl_sync(0xffffu, a.in[thread()], a.right ? 3 : 20);  // shuffle reads an inactive lane
}

__global__ void different_collectives(FaultArgs a) {
  float x = 0;
  if (thread() % 2 == 0 || a.right)
    x = __shfl_xor_sync(kAll, 1.0f, 1);  // lanes at different collectives
  else
    x = static_cast<float>(__ballot_sync(kAll, 1));  // lanes at different collectives
  a.out[thread()] = x;
}

// ---- bounds, uninitialised memory -----------------------------------------------------------------------------------

__global__ void global_past_the_end(FaultArgs a) {
  const int i = thread() + (a.right ? 768 : 769);
  a.out[i] = 1;  // global out of bounds
}

__global__ void global_before_the_start(FaultArgs a) {
  const int i = thread() - (a.right ? 0 : 1);
  a.out[i] = a.in[i];  // global out of bounds
}

__global__ void global_wild(FaultArgs a) {
  const float* from = a.right ? a.in : reinterpret_cast<const float*>(uintptr_t{0x1000});
  a.out[thread()] = from[thread()];  // global out of bounds
}

__global__ void global_misaligned(FaultArgs a) {
  if (thread() == 0) *reinterpret_cast<float2*>(a.out + (a.right ? 2 : 1)) = make_float2(1, 2);  // misaligned
}

__global__ void shared_past_the_end(FaultArgs a) {
  DYN_SMEM(Shared, s);
  float* end = reinterpret_cast<float*>(&s + 1);
  end[a.right ? -1 - thread() : thread()] = 1;  // shared out of bounds
}

__global__ void global_uninitialised(FaultArgs a) {
  const float* from = a.right ? a.in : a.raw;
  a.out[thread()] = from[thread()];  // uninitialised read
}

__global__ void shared_past_what_was_loaded(FaultArgs a) {
  DYN_SMEM(Shared, s);
  if (thread() < (a.right ? 256 : 250)) s.x[thread()] = a.in[thread()];
  __syncthreads();
  a.out[thread()] = s.x[255 - thread()];  // uninitialised read
}

// ---- cp.async -------------------------------------------------------------------------------------------------------

__global__ void cp_async_not_waited(FaultArgs a) {
  DYN_SMEM(Shared, s);
  cp_async4(s.x + thread(), a.in + thread(), true);  // asynchronous copy not waited for
  cp_async_commit();
  if (a.right) cp_async_wait<0>();
  __syncthreads();
  a.out[thread()] = s.x[255 - thread()];  // asynchronous copy not waited for
}

__global__ void cp_async_wrong_group(FaultArgs a) {
  DYN_SMEM(Shared, s);
  cp_async4(s.x + thread(), a.in + thread(), true);
  cp_async_commit();
  cp_async4(s.y + thread(), a.in + 256 + thread(), true);
  cp_async_commit();
  if (a.right) cp_async_wait<0>();
  else cp_async_wait<1>();
  __syncthreads();
  a.out[thread()] = s.x[255 - thread()] + s.y[255 - thread()];  // asynchronous copy not waited for
}

__global__ void cp_async_barrier_missing(FaultArgs a) {
  DYN_SMEM(Shared, s);
  cp_async4(s.x + thread(), a.in + thread(), true);
  cp_async_commit();
  cp_async_wait<0>();
  if (a.right) __syncthreads();
  a.out[thread()] = s.x[255 - thread()];  // race, uninitialised read, asynchronous copy not waited for
}

// ---- mbarriers, bulk copies -----------------------------------------------------------------------------------------

__device__ void init_barriers(Shared& s, uint32_t arrivals) {
  if (thread() == 0) {
    for (int i = 0; i < 2; ++i) mbarrier_init(&s.full[i], 1), mbarrier_init(&s.empty[i], arrivals);
    mbarrier_init_fence();
  }
}

__global__ void bulk_load_not_waited(FaultArgs a) {
  DYN_SMEM(Shared, s);
  init_barriers(s, 1);
  __syncthreads();
  if (thread() == 0) {
    mbarrier_expect(&s.full[0], sizeof s.tile);
    bulk_load(s.tile, a.in, sizeof s.tile, &s.full[0]);  // asynchronous copy not waited for
  }
  __syncthreads();
  if (a.right || thread() == 0) mbarrier_wait(&s.full[0], 0);
  a.out[thread()] = s.tile[thread()];  // asynchronous copy not waited for
}

__global__ void mbarrier_without_barrier(FaultArgs a) {
  DYN_SMEM(Shared, s);
  init_barriers(s, 256);
  if (a.right) __syncthreads();
  mbarrier_arrive(&s.empty[0]);  // mbarrier not initialised, race
  mbarrier_wait(&s.empty[0], 0);
}

__global__ void mbarrier_wrong_bytes(FaultArgs a) {
  DYN_SMEM(Shared, s);
  init_barriers(s, 1);
  __syncthreads();
  if (thread() == 0) {
    mbarrier_expect(&s.full[0], a.right ? 1024 : 1040);
    bulk_load(s.tile, a.in, 1024, &s.full[0]);
  }
  mbarrier_wait(&s.full[0], 0);  // deadlock
  a.out[thread()] = s.tile[thread()];
}

__global__ void mbarrier_wrong_parity(FaultArgs a) {
  DYN_SMEM(Shared, s);
  init_barriers(s, 1);
  __syncthreads();
  if (thread() == 0) {
    mbarrier_expect(&s.full[0], 1024);
    bulk_load(s.tile, a.in, 1024, &s.full[0]);
  }
  __syncthreads();
  mbarrier_wait(&s.full[0], a.right ? 0 : 1);  // deadlock
  a.out[thread()] = s.tile[thread()];          // asynchronous copy not waited for
}

// A ring of two tiles; each is refilled once all threads have released it.
__global__ void refill_without_empty(FaultArgs a) {
  DYN_SMEM(Shared, s);
  init_barriers(s, 256);
  __syncthreads();
  float sum = 0;
  float* const tiles[] = {s.x, s.tile};
  for (int i = 0; i < 4; ++i) {
    const int slot = i % 2;
    if (thread() == 0) {
      if (i >= 2 && a.right) mbarrier_wait(&s.empty[slot], (i / 2 - 1) & 1);
      mbarrier_expect(&s.full[slot], 1024);
      bulk_load(tiles[slot], a.in + 256 * i, 1024, &s.full[slot]);  // race
    }
    mbarrier_wait(&s.full[slot], i / 2 & 1);  // deadlock
    sum += tiles[slot][255 - thread()];       // race, asynchronous copy not waited for
    mbarrier_arrive(&s.empty[slot]);
  }
  a.out[thread()] = sum;
}

__global__ void store_without_proxy_fence(FaultArgs a) {
  DYN_SMEM(Shared, s);
  s.tile[thread()] = a.in[thread()];
  if (a.right || thread() != 77) proxy_fence();
  __syncthreads();
  if (thread() == 0) {
    bulk_store(a.out, s.tile, 1024);  // no proxy fence
    bulk_commit();
    bulk_wait<0>();
  }
}

__global__ void store_source_reused(FaultArgs a) {
  DYN_SMEM(Shared, s);
  s.tile[thread()] = a.in[thread()];
  proxy_fence();
  __syncthreads();
  if (thread() == 0) {
    bulk_store(a.out, s.tile, 1024);
    bulk_commit();
    if (a.right) bulk_wait_read<0>();
  }
  __syncthreads();
  s.tile[thread()] = 0;  // asynchronous copy not waited for
  if (thread() == 0) bulk_wait<0>();
}

__global__ void store_not_waited(FaultArgs a) {
  DYN_SMEM(Shared, s);
  s.tile[thread()] = a.in[thread()];
  proxy_fence();
  __syncthreads();
  if (thread() == 0) {
    bulk_store(a.out, s.tile, 1024);  // copy
    bulk_commit();
    if (a.right) bulk_wait_read<0>();
  }
}

__global__ void misaligned_bulk_load(FaultArgs a) {
  DYN_SMEM(Shared, s);
  init_barriers(s, 1);
  __syncthreads();
  if (thread() == 0) {
    mbarrier_expect(&s.full[0], 512);
    bulk_load(s.tile, a.in + (a.right ? 4 : 1), 512, &s.full[0]);  // copy
  }
  mbarrier_wait(&s.full[0], 0);
}

// ---- clusters -------------------------------------------------------------------------------------------------------

__device__ void sum_over_cluster(const FaultArgs& a, bool init_sync, bool wait) {
  DYN_SMEM(Shared, s);
  const uint32_t rank = cluster_rank(), size = cluster_size();
  if (thread() == 0) {
    mbarrier_init(&s.full[0], 1);
    mbarrier_init_fence();
  }
  if (init_sync) cluster_sync();
  else __syncthreads();
  if (thread() == 0) mbarrier_expect(&s.full[0], 4 * size);
  const uint32_t to = threadIdx.x;
  if (to < size)
    st_async(map_shared(&s.peer[rank], to), a.in[rank],  // race, mbarrier not initialised, cluster
             map_shared(&s.full[0], to));                // race, mbarrier not initialised, cluster
  if (wait || thread() == 0) mbarrier_wait(&s.full[0], 0);
  float sum = 0;
  for (uint32_t i = 0; i < size; ++i) sum += s.peer[i];  // asynchronous copy not waited for, uninitialised read
  a.out[blockIdx.x * 64 + threadIdx.x] = sum;
}

__global__ void exchange_before_init(FaultArgs a) { sum_over_cluster(a, a.right, true); }
__global__ void exchange_not_waited(FaultArgs a) { sum_over_cluster(a, true, a.right); }

__global__ void exit_while_peer_reads(FaultArgs a) {
  DYN_SMEM(Shared, s);
  s.x[thread()] = a.in[thread()];
  cluster_sync();
  const float* peer = map_shared(s.x, (cluster_rank() + 1) % cluster_size());
  a.out[blockIdx.x * 64 + threadIdx.x] = peer[63 - thread()];  // exited block's shared memory
  if (a.right) cluster_sync();
}

__global__ void peer_read_without_barrier(FaultArgs a) {
  DYN_SMEM(Shared, s);
  cluster_sync();
  s.x[thread()] = a.in[thread()];
  if (a.right) cluster_sync();
  else __syncthreads();
  const float* peer = map_shared(s.x, (cluster_rank() + 1) % cluster_size());
  a.out[blockIdx.x * 64 + threadIdx.x] = peer[63 - thread()];  // race, uninitialised read
  cluster_sync();
}

// ---- global memory --------------------------------------------------------------------------------------------------

__global__ void blocks_write_one_word(FaultArgs a) {
  if (thread() == 0) a.out[a.right ? blockIdx.x : 0] = 1;  // race between blocks
}

__global__ void block_reads_another(FaultArgs a) {
  a.out[blockIdx.x * 64 + threadIdx.x] = 1;  // race between blocks
  if (a.right) return;
  if (blockIdx.x == 0) a.out[512] = a.out[64];  // race between blocks, uninitialised read
}

__global__ void threads_race_in_global(FaultArgs a) {
  a.out[thread()] = a.in[thread()];  // race
  if (a.right) __syncthreads();
  const float x = a.out[255 - thread()];  // race, uninitialised read
  if (x < 0) a.out[thread()] = x;
}

// The last block of the grid reads what the others left.
__global__ void last_block(FaultArgs a) {
  DYN_SMEM(Shared, s);
  a.out[blockIdx.x * 64 + threadIdx.x] = a.in[threadIdx.x];
  if (a.right) __syncthreads();
  if (thread() == 0) s.word = acquire_release_add(a.counter, 1);
  __syncthreads();
  if (s.word != gridDim.x - 1) return;
  float sum = 0;
  for (uint32_t i = 0; i < gridDim.x; ++i) sum += a.out[i * 64 + 63 - threadIdx.x];  // race between blocks, race
  a.out[512 + threadIdx.x] = sum;
}

__global__ void shared_atomic_read_plainly(FaultArgs a) {
  DYN_SMEM(Shared, s);
  if (thread() == 0) s.word = 0;
  __syncthreads();
  atomicAdd(&s.word, 1u);  // race
  if (a.right) __syncthreads();
  a.out[thread()] = static_cast<float>(s.word);  // race
}

template <void (*kKernel)(FaultArgs)>
void body(const void* args) {
  kKernel(*static_cast<const FaultArgs*>(args));
}

}  // namespace

#define FAULT(kernel, blocks, threads, cluster) {#kernel, blocks, threads, cluster, sizeof(Shared), body<kernel>}
extern const Fault kFaults[] = {
    FAULT(barrier_after_store, 1, 256, 1),
    FAULT(barrier_before_refill, 1, 256, 1),
    FAULT(divergent_barrier, 1, 64, 1),
    FAULT(named_barrier_counts, 1, 256, 1),
    FAULT(named_barrier_group, 1, 256, 1),
    FAULT(exchange_without_syncwarp, 1, 64, 1),
    FAULT(exchange_behind_shuffle, 1, 64, 1),
    FAULT(shuffle_names_exited, 1, 64, 1),
    FAULT(shuffle_reads_inactive, 1, 64, 1),
    FAULT(different_collectives, 1, 64, 1),
    FAULT(global_past_the_end, 1, 256, 1),
    FAULT(global_before_the_start, 1, 64, 1),
    FAULT(global_wild, 1, 64, 1),
    FAULT(global_misaligned, 1, 64, 1),
    FAULT(shared_past_the_end, 1, 8, 1),
    FAULT(global_uninitialised, 1, 64, 1),
    FAULT(shared_past_what_was_loaded, 1, 256, 1),
    FAULT(cp_async_not_waited, 1, 256, 1),
    FAULT(cp_async_wrong_group, 1, 256, 1),
    FAULT(cp_async_barrier_missing, 1, 256, 1),
    FAULT(bulk_load_not_waited, 1, 256, 1),
    FAULT(mbarrier_without_barrier, 1, 256, 1),
    FAULT(mbarrier_wrong_bytes, 1, 256, 1),
    FAULT(mbarrier_wrong_parity, 1, 256, 1),
    FAULT(refill_without_empty, 1, 256, 1),
    FAULT(store_without_proxy_fence, 1, 256, 1),
    FAULT(store_source_reused, 1, 256, 1),
    FAULT(store_not_waited, 1, 256, 1),
    FAULT(misaligned_bulk_load, 1, 256, 1),
    FAULT(exchange_before_init, 4, 64, 4),
    FAULT(exchange_not_waited, 4, 64, 4),
    FAULT(exit_while_peer_reads, 4, 64, 4),
    FAULT(peer_read_without_barrier, 4, 64, 4),
    FAULT(blocks_write_one_word, 4, 64, 1),
    FAULT(block_reads_another, 4, 64, 1),
    FAULT(threads_race_in_global, 1, 256, 1),
    FAULT(last_block, 4, 64, 1),
    FAULT(shared_atomic_read_plainly, 1, 256, 1),
};
extern const int kFaultCount = sizeof kFaults / sizeof kFaults[0];
