// Bounds, uninitialised and released memory, alignment.
#include "shared.cuh"

namespace {

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

// The last 8 bytes of 16 lie outside.
__global__ void global_half_past_the_end(FaultArgs a) {
  if (thread() > 0) return;
  const float4 last = *reinterpret_cast<const float4*>(a.edge + (a.right ? 1016 : 1020));  // global out of bounds
  a.out[0] = last.x + last.y + last.z + last.w;
}

__global__ void global_released(FaultArgs a) {
  const float* from = a.right ? a.in : a.released;
  a.out[thread()] = from[thread()];  // use after free
}

__global__ void shared_misaligned(FaultArgs a) {
  DYN_SMEM(Shared, s);
  if (thread() == 0) *reinterpret_cast<float4*>(s.x + (a.right ? 4 : 2)) = make_float4(1, 2, 3, 4);  // misaligned
}

__global__ void stream_misaligned(FaultArgs a) {
  if (thread() > 0) return;
  const auto four = load_stream(reinterpret_cast<const Words4*>(a.in + (a.right ? 4 : 2)));  // misaligned
  a.out[0] = static_cast<float>(four.x + four.y + four.z + four.w);
}

__global__ void local_of_another_thread(FaultArgs a) {
  DYN_SMEM(Shared, s);
  float mine[2] = {a.in[thread()], 1};
  s.x[thread()] = 0;
  if (thread() == 0) s.local = mine;
  __syncthreads();
  const float* from = a.right ? mine : s.local;
  a.out[thread()] = from[thread() % 2];  // another thread's local memory
  __syncthreads();
}

float of_the_host = 0;
__global__ void variable_of_the_host(FaultArgs a) {
  float* to = a.right ? a.out : &of_the_host;
  if (thread() == 0) *to = 1;  // host memory
}

// Still within the struct, in bytes that have been written.
__global__ void shared_array_past_its_end(FaultArgs a) {
  DYN_SMEM(Shared, s);
  s.x[thread()] = s.y[thread()] = 1;
  __syncthreads();
  const int i = thread() + (a.right ? 0 : 1);
  a.out[thread()] = s.x[i];  // array out of bounds
}

__global__ void local_array_past_its_end(FaultArgs a) {
  float mine[4] = {1, 2, 3, 4};
  const int i = thread() % (a.right ? 4 : 5);
  mine[i] += 1;  // array out of bounds
  a.out[thread()] = mine[0] + mine[1] + mine[2] + mine[3];
}

__global__ void division_by_zero(FaultArgs a) {
  const uint32_t by = a.counter[0] + (a.right ? 1 : 0);
  a.out[thread()] = static_cast<float>(threadIdx.x / by);  // division by zero
}

}  // namespace

extern const FaultList kMemoryFaults = faults({
    FAULT(global_past_the_end, 1, 256, 1),
    FAULT(global_before_the_start, 1, 64, 1),
    FAULT(global_wild, 1, 64, 1),
    FAULT(global_misaligned, 1, 64, 1),
    FAULT(shared_past_the_end, 1, 8, 1),
    FAULT(global_uninitialised, 1, 64, 1),
    FAULT(shared_past_what_was_loaded, 1, 256, 1),
    FAULT(global_half_past_the_end, 1, 64, 1),
    FAULT(global_released, 1, 64, 1),
    FAULT(shared_misaligned, 1, 64, 1),
    FAULT(stream_misaligned, 1, 64, 1),
    FAULT(local_of_another_thread, 1, 64, 1),
    FAULT(variable_of_the_host, 1, 64, 1),
    FAULT(shared_array_past_its_end, 1, 256, 1),
    FAULT(local_array_past_its_end, 1, 64, 1),
    FAULT(division_by_zero, 1, 64, 1),
});
