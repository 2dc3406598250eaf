// The matrix products of a float32 gradient with a factor of 16 bits, see matmul.cuh. The gradient was computed and is
// no input: its digits go in as terms of 16 bits, split as they leave shared memory, three bf16 or two f16 for results
// in float32, two for those that are rounded to 16 bits.
#include "linear/matmul_mma.cuh"

namespace grpo::cuda {

bool matmul_by_terms(Use use, const Matrix& a, const Matrix& b, const Product& out, int64_t M, int64_t N, int64_t K,
                     const Extent& extent, const Choice& choice, const float* largest, Launch& on) {
  if (use == Use::kLogits || a.type != Float::kF32 || b.type == Float::kF32) return false;
  if (!aligned(a) || !aligned(b) || !countable(a, b, M, N, K)) return false;
  if (b.type == Float::kF16 && largest == nullptr) return false;
  const auto launch = [&]<Use kUse, class T, class Y, int kLeft>() {
    launch_matmul<kUse, float, T, Y, kLeft>(a, b, out, M, N, K, extent, choice, largest, on);
    return true;
  };
  const auto multiply = [&]<class T>(T) {
    if (use == Use::kGradHead)
      return out.becomes == Float::kF32 ? launch.template operator()<Use::kGradHead, T, float, kTerms<T>>()
                                        : launch.template operator()<Use::kGradHead, T, float, 2>();
    return out.type == Float::kF32    ? launch.template operator()<Use::kGradHidden, T, float, kTerms<T>>()
           : out.type == Float::kBf16 ? launch.template operator()<Use::kGradHidden, T, bf16, 2>()
                                      : launch.template operator()<Use::kGradHidden, T, f16, 2>();
  };
  return b.type == Float::kBf16 ? multiply(bf16{}) : multiply(f16{});
}

}  // namespace grpo::cuda
