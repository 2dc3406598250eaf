// The tokens of each row: counted with integer atomics, whose sum depends on no order, scanned by one block, put into
// their row's place in any order, and then in ascending order by one warp per row, where each lane counts for a token
// how many of the row's come before it. 24 bytes are read and written per token, 16 per row. Without `row` there is
// nothing to do: a row looks at the token of its number.
#include "logits/row_tokens.cuh"

#include "blocks/lanes.cuh"
#include "blocks/scan.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

// Grid: ceil(T / 256). Block: 256. Shared: 0. Work: 12 bytes per token, 13 with a mask. Bound: memory.
__global__ void __launch_bounds__(kThreads) count_tokens_kernel(TokenRows in, int32_t* count) {  // [R], zero
  const int64_t t = thread_index();
  if (t < in.T && in.listed(t)) atomicAdd(&count[in.row_of(t)], 1);
}

// Grid: ceil(T / 256). Block: 256. Shared: 0. Work: 20 bytes per token, 21 with a mask. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    place_tokens_kernel(TokenRows in,
                        const int32_t* start,  // [R+1]
                        int32_t* placed,       // [R], zero
                        int32_t* unordered) {  // [T]
  const int64_t t = thread_index();
  if (t >= in.T || !in.listed(t)) return;
  const int64_t r = in.row_of(t);
  unordered[start[r] + atomicAdd(&placed[r], 1)] = static_cast<int32_t>(t);
}

// Grid: ceil(R / 8). Block: 256. Shared: 0. Work: 8 bytes per token, and one more from cache for each of its row.
// Bound: latency.
__global__ void __launch_bounds__(kThreads)
    order_tokens_kernel(const int32_t* start,      // [R+1]
                        const int32_t* unordered,  // [T]
                        int32_t* ordered,          // [T]
                        int64_t R) {
  const int64_t r = int64_t{blockIdx.x} * kWarps + warp_index();
  if (r >= R) return;
  const int32_t begin = start[r], end = start[r + 1];
  for (int32_t i = begin + lane_index(); i < end; i += kWarp) {
    const int32_t own = unordered[i];
    int32_t before = 0;
    for (int32_t j = begin; j < end; ++j) before += unordered[j] < own;
    ordered[begin + before] = own;
  }
}

// Grid: ceil(T / 256). Block: 256. Shared: 0. Work: up to 21 bytes per token. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    begin_token_outputs_kernel(TokenRows in,
                               float* first,    // [T], may be null
                               float* second,   // [T], may be null
                               float* third) {  // [T], may be null
  const int64_t t = thread_index();
  if (t >= in.T) return;
  const float value = in.masked(t) || in.row_of(t) >= 0 ? 0 : NAN;
  if (first != nullptr) first[t] = value;
  if (second != nullptr) second[t] = value;
  if (third != nullptr) third[t] = value;
}

}  // namespace

RowTokens row_tokens(const TokenRows& in, Launch& on) {
  // Of an empty `row` the pointer may be null too.
  if (in.row == nullptr && in.T == in.R) return {in, nullptr, nullptr};
  return row_token_lists(in, on);
}

RowTokens row_token_lists(const TokenRows& in, Launch& on) {
  int32_t *start = on.scratch<int32_t>(in.R + 1), *placed = on.scratch<int32_t>(in.R);
  int32_t *unordered = on.scratch<int32_t>(in.T), *ordered = on.scratch<int32_t>(in.T);
  on.zero(start, (in.R + 1) * int64_t{sizeof *start});
  on.zero(placed, in.R * int64_t{sizeof *placed});
  on(count_tokens_kernel, {ceil_div(in.T, kThreads), kThreads}, in, start);
  scan_counts(reinterpret_cast<uint32_t*>(start), nullptr, in.R, on);
  on(place_tokens_kernel, {ceil_div(in.T, kThreads), kThreads}, in, start, placed, unordered);
  on(order_tokens_kernel, {ceil_div(in.R, kWarps), kThreads}, start, unordered, ordered, in.R);
  return {in, start, ordered};
}

void begin_token_outputs(const TokenRows& in, float* const (&outputs)[3], Launch& on) {
  on(begin_token_outputs_kernel, {ceil_div(in.T, kThreads), kThreads}, in, outputs[0], outputs[1], outputs[2]);
}

}  // namespace grpo::cuda
