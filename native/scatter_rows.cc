// The transpose of gather_rows: y[index[m]] += x[m], 0 where no index points. Each thread owns a range of rows of y and
// looks through all of `index`, in order: rows that meet are added in the order of m, whatever the number of threads.
#include <algorithm>
#include <type_traits>

#include "interface/operation.h"

namespace grpo {
namespace {

// Whole numbers wrap.
template <class T>
void add_row(const T* x,  // [D]
             T* y,        // [D]
             int64_t D) {
  using Wrapping = std::conditional_t<std::is_same_v<T, int32_t>, uint32_t, T>;
  for (int64_t d = 0; d < D; ++d) y[d] = static_cast<T>(static_cast<Wrapping>(y[d]) + static_cast<Wrapping>(x[d]));
}

template <class T>
void scatter_rows(const T* x,            // [M, D]
                  const int32_t* index,  // [M]
                  T* y,                  // [R, D], rows [begin, end) are written
                  int64_t begin, int64_t end, int64_t M, int64_t D) {
  std::fill(y + begin * D, y + end * D, T{});
  for (int64_t m = 0; m < M; ++m) {
    const int32_t r = read_once(index + m);
    if (r >= begin && r < end) add_row(x + m * D, y + r * D, D);
  }
}

// Halves: the rows of y are summed in float32 and rounded once.
void scatter_halves(const uint16_t* x,     // [M, D]
                    const int32_t* index,  // [M]
                    uint16_t* y,           // [R, D]
                    float* sum,            // [end - begin, D]
                    float* row,            // [D]
                    int64_t begin, int64_t end, int64_t M, int64_t D, Float type) {
  std::fill(sum, sum + (end - begin) * D, 0.0f);
  for (int64_t m = 0; m < M; ++m) {
    const int32_t r = read_once(index + m);
    if (r < begin || r >= end) continue;
    vector_kernels().convert(x + m * D, type, row, Float::kF32, D);
    add_row(row, sum + (r - begin) * D, D);
  }
  vector_kernels().convert(sum, Float::kF32, y + begin * D, type, (end - begin) * D);
}

using Args = grpo_scatter_rows_args;

template <class T>
void scatter_all(const Args& args, int64_t M, int64_t D) {
  const int64_t part = (args.rows + thread_count() - 1) / thread_count();
  parallel_for(args.rows, part, [&](int64_t begin, int64_t end, int) {
    scatter_rows(data<T>(args.x), data<int32_t>(args.index), data<T>(args.out_x), begin, end, M, D);
  });
}

int run(const Args& args, const Axes& axes) {
  if (args.out_x == nullptr) return GRPO_OK;
  const int64_t M = axes['M'], D = axes['D'];
  const DLDataType dtype = args.x->dtype;
  if (dtype.bits == 16) {
    const int64_t part = (args.rows + thread_count() - 1) / thread_count();
    Scratch<float> sum(args.rows * D), row(thread_count() * D);
    parallel_for(args.rows, part, [&](int64_t begin, int64_t end, int worker) {
      scatter_halves(data<uint16_t>(args.x), data<int32_t>(args.index), data<uint16_t>(args.out_x), &sum[begin * D],
                     &row[worker * D], begin, end, M, D, float_type(args.x));
    });
  } else if (dtype.code == 2) {
    dtype.bits == 64 ? scatter_all<double>(args, M, D) : scatter_all<float>(args, M, D);
  } else {
    dtype.bits == 32 ? scatter_all<int32_t>(args, M, D) : scatter_all<uint8_t>(args, M, D);
  }
  return GRPO_OK;
}

const grpo_field kFields[] = {
    GRPO_IN(x, "any[M,D?]"),
    GRPO_IN(index, "i32[M] below R"),
    GRPO_OUT_AS(x, out_x, "=x[R,D?]"),
    GRPO_OPT(rows, "integer 0..2147483647 axis R"),
};

}  // namespace

GRPO_OPERATION_BY(by_vectors, kScatterRows, scatter_rows, kFields);

}  // namespace grpo
