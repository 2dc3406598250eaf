// cp.async.
#include "shared.cuh"

namespace {

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

__global__ void cp_async_not_committed(FaultArgs a) {
  DYN_SMEM(Shared, s);
  cp_async4(s.x + thread(), a.in + thread(), true);  // asynchronous copy not waited for
  if (a.right) cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  a.out[thread()] = s.x[255 - thread()];  // asynchronous copy not waited for
}

__global__ void cp_async_from_shared(FaultArgs a) {
  DYN_SMEM(Shared, s);
  s.x[thread()] = a.in[thread()];
  __syncthreads();
  cp_async4(s.y + thread(), a.right ? a.in + thread() : s.x + thread(), true);  // not global memory
  cp_async_commit();
  cp_async_wait<0>();
}

}  // namespace

extern const FaultList kCopyFaults = faults({
    FAULT(cp_async_not_waited, 1, 256, 1),
    FAULT(cp_async_wrong_group, 1, 256, 1),
    FAULT(cp_async_barrier_missing, 1, 256, 1),
    FAULT(cp_async_not_committed, 1, 256, 1),
    FAULT(cp_async_from_shared, 1, 256, 1),
});
