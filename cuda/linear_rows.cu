// Which rows of the hidden states unmasked tokens name, and the tokens of each: counted with integer atomics, whose sum
// depends on no order, scanned by one block, filled in any order and then sorted within each row by one thread (a row
// has one token, or the few that share the end of a prefix).
#include "linear.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256, kScan = 1024;

struct Ids {
  const int32_t *token, *row;
  const uint8_t* mask;
  const float *grad_logp, *grad_entropy;
  int64_t T, R, V;
};

__device__ __forceinline__ bool masked(const Ids& ids, int64_t t) { return ids.mask != nullptr && ids.mask[t] == 0; }

// The row of an unmasked token, -1 if its id or row is bad.
__device__ __forceinline__ int64_t row_of(const Ids& ids, int64_t t) {
  const int64_t row = ids.row == nullptr ? t : ids.row[t];
  return ids.token[t] >= 0 && ids.token[t] < ids.V && row >= 0 && row < ids.R ? row : -1;
}

__device__ __forceinline__ bool listed(const Ids& ids, int64_t t) {
  if (masked(ids, t) || row_of(ids, t) < 0) return false;
  return ids.grad_logp == nullptr || ids.grad_logp[t] != 0 || (ids.grad_entropy != nullptr && ids.grad_entropy[t] != 0);
}

__global__ void count_kernel(Ids ids, int32_t* count) {  // [R], zero
  const int64_t t = thread_index();
  if (t < ids.T && listed(ids, t)) atomicAdd(&count[row_of(ids, t)], 1);
}

struct Scan {
  int32_t partial[2][kScan / kWarp];
};

// Exclusive sum over the block; `total` receives the whole.
__device__ __forceinline__ int32_t scan(int32_t value, int32_t (&partial)[kScan / kWarp], int32_t& total) {
  int32_t sum = value;
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int32_t before = __shfl_up_sync(kAllLanes, sum, distance);
    if (lane_index() >= distance) sum += before;
  }
  __syncthreads();
  if (lane_index() == kWarp - 1) partial[warp_index()] = sum;
  __syncthreads();
  int32_t offset = 0;
  total = 0;
  for (int warp = 0; warp < kScan / kWarp; ++warp) {
    if (warp < warp_index()) offset += partial[warp];
    total += partial[warp];
  }
  return offset + sum - value;
}

// One block. In: start[r] is the number of tokens of row r. Out: the first one's place; the rows with tokens in order.
__global__ void __launch_bounds__(kScan) scan_kernel(NamedRows named, int64_t R) {
  DYN_SMEM(Scan, shared);
  int32_t tokens = 0, rows = 0;
  for (int64_t begin = 0; begin < R; begin += kScan) {
    const int64_t r = begin + threadIdx.x;
    const int32_t count = r < R ? named.start[r] : 0;
    int32_t all_tokens, all_rows;
    const int32_t place = tokens + scan(count, shared.partial[0], all_tokens);
    const int32_t index = rows + scan(count > 0, shared.partial[1], all_rows);
    if (r < R) named.start[r] = place;
    if (count > 0) named.row[index] = static_cast<int32_t>(r);
    tokens += all_tokens;
    rows += all_rows;
  }
  if (threadIdx.x == 0) {
    named.start[R] = tokens;
    *named.count = rows;
  }
}

__global__ void fill_kernel(Ids ids, NamedRows named, int32_t* filled) {  // [R], zero
  const int64_t t = thread_index();
  if (t >= ids.T || !listed(ids, t)) return;
  const int64_t row = row_of(ids, t);
  named.tokens[named.start[row] + atomicAdd(&filled[row], 1)] = static_cast<int32_t>(t);
}

__global__ void sort_kernel(NamedRows named, int64_t R) {
  const int64_t i = thread_index();
  if (i >= R || i >= *named.count) return;
  const int32_t begin = named.start[named.row[i]], end = named.start[named.row[i] + 1];
  for (int32_t next = begin + 1; next < end; ++next) {
    const int32_t t = named.tokens[next];
    int32_t place = next;
    for (; place > begin && named.tokens[place - 1] > t; --place) named.tokens[place] = named.tokens[place - 1];
    named.tokens[place] = t;
  }
}

__global__ void prepare_outputs_kernel(Ids ids, float* logp, float* entropy, float* logsumexp) {
  const int64_t t = thread_index();
  if (t >= ids.T) return;
  const float value = masked(ids, t) || row_of(ids, t) >= 0 ? 0 : NAN;
  if (logp != nullptr) logp[t] = value;
  if (entropy != nullptr) entropy[t] = value;
  if (logsumexp != nullptr) logsumexp[t] = value;
}

}  // namespace

NamedRows named_rows(const Linear& linear, const int32_t* row, const uint8_t* mask, const float* grad_logp,
                     const float* grad_entropy, Launch& on) {
  const int64_t T = linear.T, R = linear.R;
  const Ids ids{linear.token, row, mask, grad_logp, grad_entropy, T, R, linear.V};
  const NamedRows named{on.scratch<int32_t>(R + 1), on.scratch<int32_t>(T), on.scratch<int32_t>(R),
                        on.scratch<int32_t>(1)};
  int32_t* filled = on.scratch<int32_t>(R);
  on.zero(named.start, (R + 1) * 4);
  on.zero(filled, R * 4);
  on(count_kernel, {ceil_div(T, kThreads), kThreads}, ids, named.start);
  on(scan_kernel, {1, kScan, sizeof(Scan)}, named, R);
  on(fill_kernel, {ceil_div(T, kThreads), kThreads}, ids, named, filled);
  on(sort_kernel, {ceil_div(R, kThreads), kThreads}, named, R);
  return named;
}

void prepare_outputs(const Linear& linear, const int32_t* row, const uint8_t* mask, float* const (&outputs)[3],
                     Launch& on) {
  const Ids ids{linear.token, row, mask, nullptr, nullptr, linear.T, linear.R, linear.V};
  on(prepare_outputs_kernel, {ceil_div(linear.T, kThreads), kThreads}, ids, outputs[0], outputs[1], outputs[2]);
}

}  // namespace grpo::cuda
