// Barriers of a block, and collectives of its warps.
#include "shared.cuh"

namespace {

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

__global__ void exited_thread_at_barrier(FaultArgs a) {
  if (!a.right && thread() == 5) return;
  __syncthreads();  // deadlock
  a.out[thread()] = 1;
}

__global__ void barrier_in_each_branch(FaultArgs a) {
  DYN_SMEM(Shared, s);
  if (a.right || thread() < 32) {
    __syncthreads();  // divergent barrier
    s.x[thread()] = 1;
  } else {
    __syncthreads();  // divergent barrier
    s.y[thread()] = 2;
  }
}

__global__ void barrier_of_another_kind(FaultArgs a) {
  int any = 0;
  if (a.right || thread() < 32)
    any = __syncthreads_or(thread());  // divergent barrier
  else
    any = __syncthreads_and(thread());  // divergent barrier
  a.out[thread()] = static_cast<float>(any);
}

__global__ void named_barrier_of_the_block(FaultArgs a) {
  named_barrier(a.right ? 1 : 0, 64);  // barrier
  a.out[thread()] = 1;
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

__global__ void shuffle_too_far(FaultArgs a) {
  a.out[thread()] = __shfl_down_sync(kAll, a.in[thread()], a.right ? 31 : 33);  // shuffle
}

// Lane 0 is the last at an instruction that stands in two places: the accesses that follow without a switch are seen.
__global__ void read_behind_mma(FaultArgs a) {
  float d[4] = {};
  const uint32_t x[4] = {}, y[2] = {};
  for (int i = 0; i < 100 && thread() == 0; ++i) __nanosleep(1);
  if (thread() % 2 == 0) mma_16x8x16<bf16>(d, x, y), d[0] += 1; else mma_16x8x16<bf16>(d, x, y), d[1] -= 1;
  if (thread() == 0) a.out[a.right ? 0 : 1024] = d[0] + d[1];  // global out of bounds
}

}  // namespace

extern const FaultList kBarrierFaults = faults({
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
    FAULT(exited_thread_at_barrier, 1, 64, 1),
    FAULT(barrier_in_each_branch, 1, 64, 1),
    FAULT(barrier_of_another_kind, 1, 64, 1),
    FAULT(named_barrier_of_the_block, 1, 64, 1),
    FAULT(shuffle_too_far, 1, 64, 1),
    FAULT(read_behind_mma, 1, 32, 1),
});
