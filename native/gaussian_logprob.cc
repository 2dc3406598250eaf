// Log-probability of vectors under isotropic Gaussians, and the regulated log-ratio of GRPO-Guard, with their gradient.
// Sums are float64, a block of a row at a time. Forward 8 bytes per element (12 with old_mean), backward 12 (16).
#include <algorithm>
#include <cmath>
#include <numbers>

#include "gaussian/rows.h"
#include "interface/operation.h"

namespace grpo {
namespace {

void gaussian_logprob(const float* x,         // [T,D]
                      const float* mean,      // [T,D]
                      const float* std,       // [T]
                      const float* old_mean,  // [T,D], null without log_ratio
                      const uint8_t* mask,    // [T], may be null
                      float* logp,            // [T], may be null
                      float* log_ratio,       // [T], may be null
                      GaussianSums* sums,     // [T, gaussian_blocks(D)], scratch
                      int64_t T, int64_t D) {
  const auto masked = [&](int64_t t) { return mask != nullptr && mask[t] == 0; };
  const int64_t count = gaussian_blocks(D);
  const VectorKernels& kernels = vector_kernels();
  for_gaussian_blocks(T, D, [&](int64_t t, int64_t block, int64_t begin, int64_t end) {
    if (masked(t)) return;
    const int64_t at = t * D + begin, n = end - begin;
    const float* old = log_ratio == nullptr ? nullptr : old_mean + at;
    sums[t * count + block] = kernels.gaussian_sums(x + at, mean + at, old, n);
  });
  const double half_log_2_pi = std::log(2 * std::numbers::pi) / 2;
  for (int64_t t = 0; t < T; ++t) {
    const bool nothing = masked(t) || D == 0;
    GaussianSums row{0, 0};
    for (int64_t block = 0; block < count && !nothing; ++block) {
      row.squares += sums[t * count + block].squares;
      row.products += sums[t * count + block].products;
    }
    const double s = nothing ? 1 : positive(std[t]), n = static_cast<double>(D);
    if (logp != nullptr)
      logp[t] = nothing ? 0 : static_cast<float>(-row.squares / n / (2 * s * s) - std::log(s) - half_log_2_pi);
    if (log_ratio != nullptr) log_ratio[t] = nothing ? 0 : static_cast<float>(row.products / n / s);
  }
}

// y = a (x - mean) + b (x - old_mean)
template <bool kWithOld>
void gradient_block(const float* x,         // [n]
                    const float* mean,      // [n]
                    const float* old_mean,  // [n], kWithOld only
                    float* y,               // [n]
                    int64_t n, double a, double b) {
  for (int64_t i = 0; i < n; ++i) {
    const double value = x[i];
    double sum = a * (value - mean[i]);
    if constexpr (kWithOld) sum += b * (value - old_mean[i]);
    y[i] = static_cast<float>(sum);
  }
}

void gaussian_logprob_backward(const float* x,               // [T,D]
                               const float* mean,            // [T,D]
                               const float* std,             // [T]
                               const float* old_mean,        // [T,D], null without grad_log_ratio
                               const uint8_t* mask,          // [T], may be null
                               const float* grad_logp,       // [T], may be null
                               const float* grad_log_ratio,  // [T], may be null
                               float* grad_mean,             // [T,D]
                               int64_t T, int64_t D, double grad_scale) {
  for_gaussian_blocks(T, D, [&](int64_t t, int64_t, int64_t begin, int64_t end) {
    const int64_t at = t * D + begin, n = end - begin;
    const bool live = mask == nullptr || mask[t] != 0;
    const double of_logp = live && grad_logp != nullptr ? grad_logp[t] : 0;
    const double of_ratio = live && grad_log_ratio != nullptr ? grad_log_ratio[t] : 0;
    if (of_logp == 0 && of_ratio == 0) return (void)std::fill(grad_mean + at, grad_mean + at + n, 0.0f);
    const double s = positive(std[t]), d = static_cast<double>(D);
    const double a = grad_scale * of_logp / (s * s * d), b = grad_scale * of_ratio / (s * d);
    if (of_ratio == 0) gradient_block<false>(x + at, mean + at, nullptr, grad_mean + at, n, a, b);
    else gradient_block<true>(x + at, mean + at, old_mean + at, grad_mean + at, n, a, b);
  });
}

int run(const grpo_gaussian_logprob_args& args, const Axes& axes) {
  const int64_t T = axes['T'], D = axes['D'];
  float* log_ratio = args.old_mean == nullptr ? nullptr : data<float>(args.log_ratio);
  Scratch<GaussianSums> sums(T * gaussian_blocks(D));
  gaussian_logprob(data<float>(args.x), data<float>(args.mean), data<float>(args.std), data<float>(args.old_mean),
                   data<uint8_t>(args.mask), data<float>(args.logp), log_ratio, sums.data(), T, D);
  return GRPO_OK;
}

int run(const grpo_gaussian_logprob_backward_args& args, const Axes& axes) {
  if (args.grad_logp == nullptr && args.grad_log_ratio == nullptr)
    return fail(GRPO_MISSING, "grad_logp", "is missing, expected it or {grad_log_ratio}");
  if (args.grad_log_ratio != nullptr && args.old_mean == nullptr)
    return fail(GRPO_MISSING, "old_mean", "is missing, expected that of the rollout, since {grad_log_ratio} is given");
  if (args.grad_mean == nullptr) return GRPO_OK;
  gaussian_logprob_backward(data<float>(args.x), data<float>(args.mean), data<float>(args.std),
                            data<float>(args.old_mean), data<uint8_t>(args.mask), data<float>(args.grad_logp),
                            data<float>(args.grad_log_ratio), data<float>(args.grad_mean), axes['T'], axes['D'],
                            args.grad_scale);
  return GRPO_OK;
}

#define GRPO_GAUSSIAN                                                                                \
  GRPO_IN(x, "f32[T,D]"), GRPO_IN(mean, "f32[T,D]"), GRPO_IN(std, "f32[T]"),                         \
      GRPO_IN(old_mean, "f32[T,D] ?"), GRPO_IN(mask, "u8[T] ?")

namespace forward {
using Args = grpo_gaussian_logprob_args;
const grpo_field kFields[] = {
    GRPO_GAUSSIAN,
    GRPO_OUT(logp, "f32[T]"),
    GRPO_OUT(log_ratio, "f32[T] if old_mean"),
};
}  // namespace forward

namespace backward {
using Args = grpo_gaussian_logprob_backward_args;
const grpo_field kFields[] = {
    GRPO_GAUSSIAN,
    GRPO_IN(grad_logp, "f32[T] ?"),
    GRPO_IN(grad_log_ratio, "f32[T] ?"),
    GRPO_OUT(grad_mean, "f32[T,D]"),
    GRPO_OPT(grad_scale, "number = 1 f32"),
};
}  // namespace backward

}  // namespace

GRPO_OPERATION_BY(by_vectors, kGaussianLogprob, gaussian_logprob, forward::kFields);
GRPO_OPERATION_BY(by_vectors, kGaussianLogprobBackward, gaussian_logprob_backward, backward::kFields);

}  // namespace grpo
