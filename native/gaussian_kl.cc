// KL of isotropic Gaussians to others with the same standard deviation, a row each, and its gradient with respect to the
// mean. Sums are float64, a block of a row at a time. Forward 8 bytes per element, backward 12, 16 where it accumulates.
#include <algorithm>

#include "gaussian/rows.h"
#include "interface/operation.h"

namespace grpo {
namespace {

void gaussian_kl(const float* mean,      // [T,D]
                 const float* ref_mean,  // [T,D]
                 const float* std,       // [T]
                 const uint8_t* mask,    // [T], may be null
                 float* kl,              // [T]
                 double* sums,           // [T, gaussian_blocks(D)], scratch
                 int64_t T, int64_t D) {
  const auto masked = [&](int64_t t) { return mask != nullptr && mask[t] == 0; };
  const int64_t count = gaussian_blocks(D);
  const VectorKernels& kernels = vector_kernels();
  for_gaussian_blocks(T, D, [&](int64_t t, int64_t block, int64_t begin, int64_t end) {
    if (masked(t)) return;
    const int64_t at = t * D + begin;
    sums[t * count + block] = kernels.gaussian_sums(mean + at, ref_mean + at, nullptr, end - begin).squares;
  });
  for (int64_t t = 0; t < T; ++t) {
    if (masked(t) || D == 0) {
      kl[t] = 0;
      continue;
    }
    double squares = 0;
    for (int64_t block = 0; block < count; ++block) squares += sums[t * count + block];
    const double s = positive(std[t]);
    kl[t] = static_cast<float>(squares / static_cast<double>(D) / (2 * s * s));
  }
}

// y = or += factor (mean - ref_mean)
template <bool kAccumulate>
void gradient_block(const float* mean,      // [n]
                    const float* ref_mean,  // [n]
                    float* y,               // [n]
                    int64_t n, double factor) {
  for (int64_t i = 0; i < n; ++i) {
    const double value = factor * (double{mean[i]} - ref_mean[i]);
    y[i] = static_cast<float>(kAccumulate ? y[i] + value : value);
  }
}

void gaussian_kl_backward(const float* mean,      // [T,D]
                          const float* ref_mean,  // [T,D]
                          const float* std,       // [T]
                          const uint8_t* mask,    // [T], may be null
                          const float* grad_kl,   // [T]
                          float* grad_mean,       // [T,D]
                          int64_t T, int64_t D, double grad_scale, bool accumulate) {
  for_gaussian_blocks(T, D, [&](int64_t t, int64_t, int64_t begin, int64_t end) {
    const int64_t at = t * D + begin, n = end - begin;
    const bool live = mask == nullptr || mask[t] != 0;
    if (!live || grad_kl[t] == 0) {
      if (!accumulate) std::fill(grad_mean + at, grad_mean + at + n, 0.0f);
      return;
    }
    const double s = positive(std[t]), factor = grad_scale * grad_kl[t] / (s * s * static_cast<double>(D));
    if (accumulate) gradient_block<true>(mean + at, ref_mean + at, grad_mean + at, n, factor);
    else gradient_block<false>(mean + at, ref_mean + at, grad_mean + at, n, factor);
  });
}

int run(const grpo_gaussian_kl_args& args, const Axes& axes) {
  if (args.kl == nullptr) return GRPO_OK;
  const int64_t T = axes['T'], D = axes['D'];
  Scratch<double> sums(T * gaussian_blocks(D));
  gaussian_kl(data<float>(args.mean), data<float>(args.ref_mean), data<float>(args.std), data<uint8_t>(args.mask),
              data<float>(args.kl), sums.data(), T, D);
  return GRPO_OK;
}

int run(const grpo_gaussian_kl_backward_args& args, const Axes& axes) {
  if (args.grad_mean == nullptr) return GRPO_OK;
  gaussian_kl_backward(data<float>(args.mean), data<float>(args.ref_mean), data<float>(args.std),
                       data<uint8_t>(args.mask), data<float>(args.grad_kl), data<float>(args.grad_mean), axes['T'],
                       axes['D'], args.grad_scale, args.accumulate != 0);
  return GRPO_OK;
}

#define GRPO_GAUSSIAN_KL                                                                   \
  GRPO_IN(mean, "f32[T,D]"), GRPO_IN(ref_mean, "f32[T,D]"), GRPO_IN(std, "f32[T]"),        \
      GRPO_IN(mask, "u8[T] ?")

namespace forward {
using Args = grpo_gaussian_kl_args;
const grpo_field kFields[] = {
    GRPO_GAUSSIAN_KL,
    GRPO_OUT(kl, "f32[T]"),
};
}  // namespace forward

namespace backward {
using Args = grpo_gaussian_kl_backward_args;
const grpo_field kFields[] = {
    GRPO_GAUSSIAN_KL,
    GRPO_IN(grad_kl, "f32[T]"),
    GRPO_OUT(grad_mean, "f32[T,D] accumulates"),
    GRPO_OPT(grad_scale, "number = 1 f32"),
    GRPO_OPT(accumulate, "boolean = false"),
};
}  // namespace backward

}  // namespace

GRPO_OPERATION_BY(by_vectors, kGaussianKl, gaussian_kl, forward::kFields);
GRPO_OPERATION(kGaussianKlBackward, gaussian_kl_backward, backward::kFields);

}  // namespace grpo
