// Clusters of blocks.
#include "shared.cuh"

namespace {

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

// A cluster of one: the store lands in the block's own shared memory.
__global__ void exchange_alone(FaultArgs a) {
  DYN_SMEM(Shared, s);
  init_barriers(s, 1);
  __syncthreads();
  if (thread() == 0) {
    mbarrier_expect(&s.full[0], 4);
    st_async(map_shared(&s.peer[0], 0), a.in[1],  // exited block's shared memory, copy
             map_shared(&s.full[0], 0));          // exited block's shared memory, copy
  }
  if (!a.right) return;
  mbarrier_wait(&s.full[0], 0);
  a.out[blockIdx.x * 64 + threadIdx.x] = s.peer[0];
}

__global__ void rank_past_the_cluster(FaultArgs a) {
  DYN_SMEM(Shared, s);
  s.x[thread()] = a.in[thread()];
  cluster_sync();
  const float* peer = map_shared(s.x, a.right ? 0 : cluster_size());  // shared out of bounds
  a.out[blockIdx.x * 64 + threadIdx.x] = peer[thread()];
  cluster_sync();
}

}  // namespace

extern const FaultList kClusterFaults = faults({
    FAULT(exchange_before_init, 4, 64, 4),
    FAULT(exchange_not_waited, 4, 64, 4),
    FAULT(exit_while_peer_reads, 4, 64, 4),
    FAULT(peer_read_without_barrier, 4, 64, 4),
    FAULT(exchange_alone, 4, 64, 1),
    FAULT(rank_past_the_cluster, 4, 64, 4),
});
