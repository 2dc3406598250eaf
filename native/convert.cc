// float32, bfloat16 and IEEE half into each other, rounded to nearest even.
#include "interface/operation.h"
#include "platform/past_caches.h"

namespace grpo {
namespace {

using Args = grpo_convert_args;

int run(const Args& args, const Axes& axes) {
  if (args.out_x == nullptr) return GRPO_OK;
  const Float from = float_type(args.x), to = float_type(args.out_x);
  const char* x = data<char>(args.x);
  char* y = data<char>(args.out_x);
  const auto convert = [&](int64_t begin, int64_t end, void* there) {
    vector_kernels().convert(x + begin * size_of(from), from, there, to, end - begin);
  };
  const int64_t N = axes['N'];
  const bool large = past_caches_pay(y, N * size_of(to), N * (size_of(from) + size_of(to)));
  parallel_for(N, 1 << 16, [&](int64_t begin, int64_t end, int) {
    char* there = y + begin * size_of(to);
    if (!large) return convert(begin, end, there);
    write_past_caches(there, end - begin, size_of(to),
                      [&](int64_t i, int64_t j, void* piece) { convert(begin + i, begin + j, piece); });
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
