// Rows of logits that have sets of ids (kept_sets.cuh): one block gathers the logits of a row's set, a few among many,
// and nothing else of the row is read. What is done with them is what logits_rows.cuh does with a whole row, but that
// every entry of the gradient is formed in float64: there are few.
#pragma once

#include "logits/logits_rows.cuh"

namespace grpo::cuda {

constexpr int kKeptThreads = 128;

// A token outside its row's set has a logp that is a constant.
template <RowPass kPass>
__device__ __forceinline__ RowCoefficients kept_coefficients(const RowWork& work, const OwnTokens& own, int64_t r,
                                                             RowShared& s) {
  RowCoefficients c{work.grad_logp, work.grad_entropy, 0, 0, false};
  bool some = false;
  for (int64_t j = threadIdx.x; j < own.count; j += blockDim.x) {
    const int64_t t = own[j];
    const float logp = in_set(work.sets.kept, r, work.tokens.in.token[t]) ? c.grad_logp[t] : 0;
    const float entropy = c.grad_entropy == nullptr ? 0 : c.grad_entropy[t];
    c.logp += logp;
    c.entropy += entropy;
    some = some || !(logp == 0 && entropy == 0);
  }
  c.logp = block_sum(c.logp, s.sums) * grad_scale_of<kPass>(work);
  c.entropy = block_sum(c.entropy, s.sums) * grad_scale_of<kPass>(work);
  c.zero = __syncthreads_or(some) == 0;
  return c;
}

// Three blocks of a multiprocessor: without that number ptxas aims at more, and spills.
// Grid: R, or T where rows are listed. Block: 128. Shared: 400. Work: each logit of a set read once, each gradient
// written once. Bound: latency, or where a gradient is written memory.
template <RowPass kPass, class T, class G, class Coefficients>
__global__ void __launch_bounds__(kKeptThreads, 3)
    kept_row_kernel(LogitRows<T> given, GradRows<G> gradient, RowWork work,
                    const __grid_constant__ Coefficients coefficients) {
  DYN_SMEM(RowShared, s);
  const RowOfBlock block = row_of_block<kPass>(work.tokens, blockIdx.x);
  const int64_t r = block.r;
  const OwnTokens own = block.own;
  if (!work.sets.has(r)) return;
  G* y = kPass == RowPass::kForward ? nullptr : gradient.data + r * gradient.stride;
  if (own.count == 0) {
    if constexpr (kPass != RowPass::kForward) fill(y, given.width, 0);
    return;
  }
  const LogitRows<T> logits = given.of_row(r);
  const Kept here = kept_here(work.sets.kept, r);
  const int64_t first = work.sets.kept.first;
  const auto logit = [&](int64_t id) { return softcapped_if(to_float(logits.row(r)[id - first]), logits.inverse_cap); };
  float* x = work.gathered == nullptr ? nullptr : work.gathered + (here.ids - work.sets.kept.ids);
  Online online = no_logits();
  for (int64_t j = threadIdx.x; j < here.count; j += blockDim.x) {
    const float own_logit[1] = {logit(here.ids[j])};
    if (x != nullptr) x[j] = own_logit[0];
    add<true>(online, own_logit, logits.scale2);
  }
  online = merge_block(online, s, logits.scale2);
  if (threadIdx.x == 0) {
    SoftmaxOfRow softmax = softmax_of(online, logits.part);
    if constexpr (kPass == RowPass::kBackward)
      softmax = with_given(softmax, logits.scale, work.given_logsumexp[own[0]],
                           work.given_entropy == nullptr ? nullptr : work.given_entropy + own[0]);
    s.softmax = softmax;
  }
  __syncthreads();
  const SoftmaxOfRow softmax = s.softmax;
  if constexpr (kPass == RowPass::kForward || kPass == RowPass::kFused)
    for (int64_t j = threadIdx.x; j < own.count; j += blockDim.x) {
      const int64_t t = own[j], id = work.tokens.in.token[t], place = ids_before(here, id);
      const float z = place < here.count && here.ids[place] == id ? logit(id) : -INFINITY;
      const double exact = softmax.log_sum != softmax.log_sum ? NAN
                           : z == -INFINITY                   ? -INFINITY
                                                              : softmax.logp(z, logits.scale);
      const float logp = static_cast<float>(exact), entropy = static_cast<float>(softmax.entropy);
      if (work.logp != nullptr) work.logp[t] = logp;
      if (work.entropy != nullptr) work.entropy[t] = entropy;
      if (work.logsumexp != nullptr) work.logsumexp[t] = static_cast<float>(softmax.logsumexp(logits.scale));
      if constexpr (kPass == RowPass::kFused) {
        typename Coefficients::Operands operands;
        coefficients.load(t, operands);
        coefficients(0, t, operands, logp, entropy);
      }
    }
  if constexpr (kPass != RowPass::kForward) {
    __syncthreads();  // the logits are gathered, and all that may lie in their place is read
    const RowCoefficients c = kept_coefficients<kPass>(work, own, r, s);
    fill(y, logits.width, 0);
    __syncthreads();
    if (c.zero) return;
    for (int64_t j = threadIdx.x; j < here.count; j += blockDim.x) {
      double value = 0;
      for (int64_t i = 0; i < own.count; ++i)
        if (work.tokens.in.token[own[i]] == here.ids[j]) value += c.grad_logp[own[i]];
      const double logp = softmax.logp(x[j], logits.scale), p = exp(logp);
      value *= grad_scale_of<kPass>(work);
      if (p != 0) value -= p * (c.logp + c.entropy * (logp + softmax.entropy));  // not 0 * -inf
      if (logits.inverse_cap.high != 0) value *= cap_slope(x[j]);
      y[here.ids[j] - first] = rounded_once<G>(isfinite(softmax.log_sum) ? logits.slope() * value : NAN);
    }
  }
}

}  // namespace grpo::cuda
