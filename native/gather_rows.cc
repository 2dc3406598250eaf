// Copies rows by index: x[m] = x[index[m]]. Bytes are moved, whatever they mean. An index that has left its bounds since it
// was checked, because another thread writes to it, gives a row of zeros.
#include <algorithm>
#include <cstring>

#include "interface/operation.h"
#include "interface/descriptors.h"

namespace grpo {
namespace {

void gather_rows(const char* x,         // [R] rows
                 const int32_t* index,  // [M]
                 char* gathered,        // [M] rows
                 int64_t R, int64_t M, int64_t row_bytes) {
  for (int64_t m = 0; m < M; ++m) {
    const int32_t r = read_once(index + m);
    char* row = gathered + m * row_bytes;
    if (r >= 0 && r < R) std::memcpy(row, x + r * row_bytes, row_bytes);
    else std::memset(row, 0, row_bytes);
  }
}

using Args = grpo_gather_rows_args;

int run(const Args& args, const Axes& axes) {
  if (args.out_x == nullptr) return GRPO_OK;
  const int64_t row_bytes = axes['D'] * type_bytes(type_of(args.x->dtype));
  if (row_bytes == 0) return GRPO_OK;  // and the arrays may have no memory
  const int32_t* index = data<int32_t>(args.index);
  parallel_for(axes['M'], std::max<int64_t>(1, (1 << 16) / row_bytes), [&](int64_t begin, int64_t end, int) {
    gather_rows(data<char>(args.x), index + begin, data<char>(args.out_x) + begin * row_bytes, axes['R'], end - begin,
                row_bytes);
  });
  return GRPO_OK;
}

const grpo_field kFields[] = {
    GRPO_IN(x, "any[R,D?]"),
    GRPO_IN(index, "i32[M] below R"),
    GRPO_OUT_AS(x, out_x, "=x[M,D?]"),
};

}  // namespace

GRPO_OPERATION(kGatherRows, gather_rows, kFields);

}  // namespace grpo
