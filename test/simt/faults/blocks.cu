// Global memory that threads and blocks share.
#include "shared.cuh"

namespace {

__global__ void blocks_write_one_word(FaultArgs a) {
  if (thread() == 0) a.out[a.right ? blockIdx.x : 0] = 1;  // race between blocks
}

__global__ void block_reads_another(FaultArgs a) {
  a.out[blockIdx.x * 64 + threadIdx.x] = 1;  // race between blocks
  if (a.right) return;
  if (blockIdx.x == 0) a.out[512] = a.out[64];  // race between blocks, uninitialised read
}

__global__ void block_overwrites_what_another_reads(FaultArgs a) {
  if (blockIdx.x == 1) a.out[thread()] = static_cast<float>(a.counter[thread() % 4]);  // race between blocks
  if (blockIdx.x == 2 && thread() == 0) a.counter[a.right ? 4 : 3] = 1;                 // race between blocks
}

__global__ void plain_store_among_atomics(FaultArgs a) {
  if (a.right || blockIdx.x > 0) atomicAdd(a.counter, 1u);  // race between blocks
  else if (thread() == 0) a.counter[0] = 1;                 // race between blocks
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

}  // namespace

extern const FaultList kBlockFaults = faults({
    FAULT(blocks_write_one_word, 4, 64, 1),
    FAULT(block_reads_another, 4, 64, 1),
    FAULT(block_overwrites_what_another_reads, 4, 64, 1),
    FAULT(plain_store_among_atomics, 4, 64, 1),
    FAULT(threads_race_in_global, 1, 256, 1),
    FAULT(last_block, 4, 64, 1),
    FAULT(shared_atomic_read_plainly, 1, 256, 1),
});
