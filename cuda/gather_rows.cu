// Copies rows by index: y[m] = x[index[m]]. Bytes are moved, whatever they mean.
//
// A power of two of threads per row, at most a block, in words as wide as the row and both addresses allow: up to 16
// bytes. Every byte of a row is read and written once. An index outside the rows gives a row of NaN, of zeros where the
// dtype has no NaN.
#include "blocks/lanes.cuh"
#include "launch/operation.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256;

// A word of which every element is NaN, or 0; `pattern` holds the element repeated.
template <class Word>
__device__ __forceinline__ Word repeat(uint64_t pattern) {
  if constexpr (sizeof(Word) <= 8) return static_cast<Word>(pattern);
  else {
    const uint32_t low = static_cast<uint32_t>(pattern), high = static_cast<uint32_t>(pattern >> 32);
    return {low, high, low, high};
  }
}

// Grid: a power of two of threads per row. Block: 256. Shared: 0. Work: each byte of a row read and written once, 4
// bytes per index. Bound: memory.
template <class Word>
__global__ void __launch_bounds__(kThreads)
    gather_rows_kernel(const Word* x,         // [R, words]
                       const int32_t* index,  // [M]
                       Word* y,               // [M, words]
                       int64_t R, int64_t M, int64_t words,
                       int32_t row_bits,  // 2^row_bits threads per row
                       uint64_t bad) {
  const int64_t m = thread_index() >> row_bits;
  if (m >= M) return;
  const int64_t threads = int64_t{1} << row_bits, first = threadIdx.x & (threads - 1), row = index[m];
  Word* to = y + m * words;
  if (row < 0 || row >= R) {
    for (int64_t word = first; word < words; word += threads) to[word] = repeat<Word>(bad);
    return;
  }
  const Word* from = x + row * words;
#pragma unroll 4
  for (int64_t word = first; word < words; word += threads) to[word] = from[word];
}

uint64_t bad_pattern(const DLDataType& dtype) {
  if (dtype.code == 4) return 0x7fc0'7fc0'7fc0'7fc0;  // bfloat16
  if (dtype.code != 2) return 0;                      // whole numbers
  return dtype.bits == 16 ? 0x7e00'7e00'7e00'7e00 : dtype.bits == 32 ? 0x7fc0'0000'7fc0'0000 : 0x7ff8'0000'0000'0000;
}

using Args = grpo_gather_rows_args;

template <class Word>
void gather_rows(const Args& args, int64_t R, int64_t M, int64_t row_bytes, Launch& on) {
  const int64_t words = row_bytes / int64_t{sizeof(Word)};
  int32_t row_bits = 0;
  while (1 << row_bits < kThreads && 1 << row_bits < words) ++row_bits;
  on(gather_rows_kernel<Word>, {ceil_div(M, kThreads >> row_bits), kThreads}, data<Word>(args.x),
     data<int32_t>(args.index), data<Word>(args.out_x), R, M, words, row_bits, bad_pattern(args.x->dtype));
}

int run(const Args& args, const Axes& axes, Launch& on) {
  if (args.out_x == nullptr) return GRPO_OK;
  const int64_t R = axes['R'], M = axes['M'], row_bytes = axes['D'] * (args.x->dtype.bits / 8);
  if (row_bytes == 0) return GRPO_OK;
  // The lowest bit of any of them: what all are multiples of.
  const uint64_t any = static_cast<uint64_t>(row_bytes) | reinterpret_cast<uintptr_t>(data<char>(args.x)) |
                       reinterpret_cast<uintptr_t>(data<char>(args.out_x));
  if (any % 16 != 0) on.because("rows are not multiples of 16 bytes, or do not begin at such: copied in smaller words");
  if (any % 16 == 0) gather_rows<Words4>(args, R, M, row_bytes, on);
  else if (any % 8 == 0) gather_rows<uint64_t>(args, R, M, row_bytes, on);
  else if (any % 4 == 0) gather_rows<uint32_t>(args, R, M, row_bytes, on);
  else if (any % 2 == 0) gather_rows<uint16_t>(args, R, M, row_bytes, on);
  else gather_rows<uint8_t>(args, R, M, row_bytes, on);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kGatherRows, gather_rows);

}  // namespace grpo::cuda
