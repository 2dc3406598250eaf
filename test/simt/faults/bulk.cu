// mbarriers and bulk copies.
#include "shared.cuh"

namespace {

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

__global__ void mbarrier_too_many_arrivals(FaultArgs a) {
  DYN_SMEM(Shared, s);
  init_barriers(s, 1);
  __syncthreads();
  if (thread() == 0) mbarrier_expect(&s.full[0], 1024);
  __syncthreads();
  if (thread() == (a.right ? 256 : 1)) mbarrier_arrive(&s.full[0]);  // mbarrier
  __syncthreads();
  if (thread() == 0) bulk_load(s.tile, a.in, 1024, &s.full[0]);
  mbarrier_wait(&s.full[0], 0);
}

__global__ void mbarrier_initialised_twice(FaultArgs a) {
  DYN_SMEM(Shared, s);
  init_barriers(s, 1);
  __syncthreads();
  if (thread() == 0 && !a.right) mbarrier_init(&s.full[1], 1);  // mbarrier
}

__global__ void load_over_plain_stores(FaultArgs a) {
  DYN_SMEM(Shared, s);
  init_barriers(s, 1);
  s.tile[thread()] = 1;
  if (a.right) proxy_fence();
  __syncthreads();
  if (thread() == 0) {
    mbarrier_expect(&s.full[0], 1024);
    bulk_load(s.tile, a.in, 1024, &s.full[0]);  // no proxy fence
  }
  mbarrier_wait(&s.full[0], 0);
}

__global__ void load_under_way_at_exit(FaultArgs a) {
  DYN_SMEM(Shared, s);
  init_barriers(s, 1);
  __syncthreads();
  if (thread() == 0) {
    mbarrier_expect(&s.full[0], 1024);
    bulk_load(s.tile, a.in, 1024, &s.full[0]);  // exited block's shared memory, copy
  }
  if (a.right) mbarrier_wait(&s.full[0], 0);
}

// bulk_wait_read is not enough for who reads what was stored.
__global__ void stored_read_too_early(FaultArgs a) {
  DYN_SMEM(Shared, s);
  s.tile[thread()] = a.in[thread()];
  proxy_fence();
  __syncthreads();
  if (thread() == 0) {
    bulk_store(a.out, s.tile, 1024);  // asynchronous copy not waited for
    bulk_commit();
    if (a.right) bulk_wait<0>();
    else bulk_wait_read<0>();
  }
  __syncthreads();
  if (a.out[thread()] < 0) a.out[thread()] = 0;  // asynchronous copy not waited for
}

}  // namespace

extern const FaultList kBulkFaults = faults({
    FAULT(bulk_load_not_waited, 1, 256, 1),
    FAULT(mbarrier_without_barrier, 1, 256, 1),
    FAULT(mbarrier_wrong_bytes, 1, 256, 1),
    FAULT(mbarrier_wrong_parity, 1, 256, 1),
    FAULT(refill_without_empty, 1, 256, 1),
    FAULT(store_without_proxy_fence, 1, 256, 1),
    FAULT(store_source_reused, 1, 256, 1),
    FAULT(store_not_waited, 1, 256, 1),
    FAULT(misaligned_bulk_load, 1, 256, 1),
    FAULT(mbarrier_too_many_arrivals, 1, 256, 1),
    FAULT(mbarrier_initialised_twice, 1, 256, 1),
    FAULT(load_over_plain_stores, 1, 256, 1),
    FAULT(load_under_way_at_exit, 1, 256, 1),
    FAULT(stored_read_too_early, 1, 256, 1),
});
