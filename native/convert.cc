// float32, bfloat16 and IEEE half into each other, rounded to nearest even.
#include "interface/operation.h"

namespace grpo {
namespace {

using Args = grpo_convert_args;

int run(const Args& args, const Axes& axes) {
  if (args.out_x == nullptr) return GRPO_OK;
  const Float from = float_type(args.x), to = float_type(args.out_x);
  const char* x = data<char>(args.x);
  char* y = data<char>(args.out_x);
  parallel_for(axes['N'], 1 << 16, [&](int64_t begin, int64_t end, int) {
    vector_kernels().convert(x + begin * size_of(from), from, y + begin * size_of(to), to, end - begin);
  });
  return GRPO_OK;
}

const grpo_field kFields[] = {
    GRPO_IN(x, "f32|bf16|f16[N]"),
    GRPO_OUT_AS(x, out_x, "f32|bf16|f16[N]"),
};

}  // namespace

GRPO_OPERATION_BY(by_vectors, kConvert, convert, kFields);

}  // namespace grpo
