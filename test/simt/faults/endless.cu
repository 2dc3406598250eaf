// Kernels that do not end: each is reported with the line where it is, in place of a test run that hangs.
#include "shared.cuh"

namespace {

// Nobody ever adds to the counter.
__global__ void flag_never_set(FaultArgs a) {
  if (a.right && thread() == 63) release_add(a.counter, 1);
  while (acquire_load(a.counter) == 0) {  // deadlock
  }
  a.out[thread()] = 1;
}

// Blocks that wait for later ones: nothing says that those start before these end.
__global__ void barrier_of_the_grid(FaultArgs a) {
  if (thread() > 0) return;
  release_add(a.counter, 1);
  while (acquire_load(a.counter) < (a.right ? 1 : gridDim.x)) {  // deadlock
  }
}

__global__ void sleep_for_ever(FaultArgs a) {
  if (a.right && thread() == 63) atomicAdd(a.counter, 1u);
  while (atomicAdd(a.counter, 0u) == 0)
    __nanosleep(100);  // deadlock
  a.out[thread()] = 1;
}

// Who has the lock goes on only if those that ask for it let it.
__global__ void lock_not_returned(FaultArgs a) {
  while (atomicCAS(a.counter, 0u, 1u) != 0) {  // no end, deadlock
  }
  __nanosleep(100);
  if (a.right) atomicExch(a.counter, 0u);
}

__global__ void barriers_without_end(FaultArgs a) {
  do {
    __syncthreads();  // no end
  } while (!a.right);
}

// Touches no memory: no call of the interpreter would see it.
__global__ void arithmetic_without_end(FaultArgs a) {
  const uint32_t end = a.right ? 25 : 26;
  uint32_t x = threadIdx.x * 0 + 1, steps = 0;
  while (x != end) {  // no end
    x = x * 5 | 1;    // no end
    ++steps;          // no end
  }
  a.out[thread()] = static_cast<float>(steps);
}

__global__ void local_memory_without_end(FaultArgs a) {
  volatile uint32_t x = 1;
  while (x != (a.right ? 25 : 26))  // no end
    x = x * 5 | 1;                  // no end
}

}  // namespace

extern const FaultList kEndlessFaults = faults({
    FAULT(flag_never_set, 1, 64, 1),
    FAULT(barrier_of_the_grid, 4, 64, 1),
    FAULT(sleep_for_ever, 1, 64, 1),
    FAULT(lock_not_returned, 1, 64, 1),
    FAULT(barriers_without_end, 1, 64, 1),
    FAULT(arithmetic_without_end, 1, 64, 1),
    FAULT(local_memory_without_end, 1, 64, 1),
});
