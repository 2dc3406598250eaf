// The tokens of each row: counted with integer atomics, whose sum depends on no order, scanned by one block, put into
// their row's place in any order, and then in ascending order by one warp per row, where each lane counts for a token
// how many of the row's come before it. 24 bytes are read and written per token, 16 per row. Without `row` there is
// nothing to do: a row looks at the token of its number.
//
// Where the rows are many times as many as the tokens, these are sorted by their rows, and the rows that begin among
// them are listed: 136 bytes per token, whatever the number of rows.
#include "logits/row_tokens.cuh"

#include "blocks/flags.cuh"
#include "blocks/lanes.cuh"
#include "blocks/radix_sort.cuh"
#include "blocks/scan.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
// Where there are more rows than this, for each token and altogether, tokens are sorted: 128 bytes of counts for each.
constexpr int64_t kManyRows = 16, kFewRows = 4096;

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

constexpr uint32_t kNowhere = UINT32_MAX;  // the row of a token that is not listed: after all others

// Grid: ceil(T / 256). Block: 256. Shared: 0. Work: 12 bytes per token, 13 with a mask. Bound: memory.
__global__ void __launch_bounds__(kThreads) row_keys_kernel(TokenRows in, uint32_t* keys) {  // [T]
  const int64_t t = thread_index();
  if (t < in.T) keys[t] = in.listed(t) ? static_cast<uint32_t>(in.row_of(t)) : kNowhere;
}

// Where the row of a sorted token is another than that of the one before.
struct Begins {
  const uint32_t* keys;  // [T], sorted
  int32_t skip = 0;

  __device__ __forceinline__ uint32_t bits(int64_t first, int64_t T) const {
    uint32_t begins = 0;
    for (int i = 0; i < kFlags && first + i < T; ++i)
      if (first + i == 0 || keys[first + i] != keys[first + i - 1]) begins |= 1u << i;
    return begins;
  }
};

// Grid: ceil((T + 1) / 256). Block: 256. Shared: 0. Work: 12 bytes per row that tokens name. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    name_rows_kernel(const uint32_t* keys,    // [T], sorted
                     const int32_t* start,    // [T+1]
                     const uint32_t* begins,  // [1], of which the last may be the one of tokens that are not listed
                     int32_t* row,            // [T]
                     uint32_t* count) {       // [1]
  const int64_t i = thread_index(), rows = *begins;
  if (rows == 0 && i == 0) *count = 0;
  if (i >= rows) return;
  const uint32_t key = keys[start[i]];
  if (key != kNowhere) row[i] = static_cast<int32_t>(key);
  if (i + 1 == rows) *count = static_cast<uint32_t>(rows - (key == kNowhere));
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

RowTokens sorted_tokens(const TokenRows& in, Launch& on) {
  uint32_t *keys = on.scratch<uint32_t>(in.T), *count = on.scratch<uint32_t>(1);
  // One more than there are tokens: without any, `row` is still not null.
  int32_t *start = on.scratch<int32_t>(in.T + 1), *row = on.scratch<int32_t>(in.T + 1);
  on(row_keys_kernel, {ceil_div(in.T, kThreads), kThreads}, in, keys);
  const Sorted sorted = radix_sort(keys, in.T, true, on);
  // Past the last one stands T.
  const uint32_t* begins =
      list_flags(Begins{sorted.keys}, nullptr, start, static_cast<int32_t>(in.T), in.T, in.T + 1, on);
  on(name_rows_kernel, {ceil_div(in.T + 1, kThreads), kThreads}, sorted.keys, start, begins, row, count);
  return {in, start, reinterpret_cast<const int32_t*>(sorted.values), row, count, in.T};
}

}  // namespace

RowTokens row_tokens(const TokenRows& in, Launch& on) {
  // Of an empty `row` the pointer may be null too.
  if (in.row == nullptr && in.T == in.R) return {in, nullptr, nullptr, nullptr, nullptr, in.R};
  return row_token_lists(in, on);
}

RowTokens row_token_lists(const TokenRows& in, Launch& on) {
  // Counting takes less time where there are about as many tokens as rows. The bits are the same.
  if (in.R > kManyRows * in.T + kFewRows) return sorted_tokens(in, on);
  int32_t *start = on.scratch<int32_t>(in.R + 1), *placed = on.scratch<int32_t>(in.R);
  int32_t *unordered = on.scratch<int32_t>(in.T), *ordered = on.scratch<int32_t>(in.T);
  on.zero(start, (in.R + 1) * int64_t{sizeof *start});
  on.zero(placed, in.R * int64_t{sizeof *placed});
  on(count_tokens_kernel, {ceil_div(in.T, kThreads), kThreads}, in, start);
  scan_counts(reinterpret_cast<uint32_t*>(start), nullptr, in.R, on);
  on(place_tokens_kernel, {ceil_div(in.T, kThreads), kThreads}, in, start, placed, unordered);
  on(order_tokens_kernel, {ceil_div(in.R, kWarps), kThreads}, start, unordered, ordered, in.R);
  return {in, start, ordered, nullptr, nullptr, in.R};
}

void begin_token_outputs(const TokenRows& in, float* const (&outputs)[3], Launch& on) {
  on(begin_token_outputs_kernel, {ceil_div(in.T, kThreads), kThreads}, in, outputs[0], outputs[1], outputs[2]);
}

}  // namespace grpo::cuda
