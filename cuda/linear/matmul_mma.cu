// The matrix products of two factors of one 16-bit dtype, see matmul.cuh: each product of numbers is exact, their sums
// are float32.
#include "linear/matmul_mma.cuh"

namespace grpo::cuda {

bool matmul_of_halves(Use use, const Matrix& a, const Matrix& b, const Product& out, int64_t M, int64_t N, int64_t K,
                      const Extent& extent, const Choice& choice, Launch& on) {
  if (a.type != b.type || a.type == Float::kF32 || b.rows != nullptr) return false;
  if (!aligned(a) || !aligned(b) || !countable(a, b, M, N, K)) return false;
  const auto launch = [&]<Use kUse, class T, class Y>() {
    launch_matmul<kUse, T, T, Y, 1>(a, b, out, M, N, K, extent, choice, nullptr, on);
    return true;
  };
  if (use == Use::kLogits) {
    if (K % 8 != 0) return false;  // a piece of 16 bytes would end in numbers of nobody
    return a.type == Float::kBf16 ? launch.template operator()<Use::kLogits, bf16, float>()
                                  : launch.template operator()<Use::kLogits, f16, float>();
  }
  // Gradients are f16, of which bf16 is formed.
  if (a.type != Float::kF16 || (use == Use::kGradHidden && out.type != Float::kBf16)) return false;
  if (use == Use::kGradHead) return launch.template operator()<Use::kGradHead, f16, float>();
  return launch.template operator()<Use::kGradHidden, f16, bf16>();
}

}  // namespace grpo::cuda
