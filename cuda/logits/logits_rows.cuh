// What is done with a row of logits, by one block or by a cluster of blocks: softmax, the log-probabilities of its
// tokens, their coefficients, the gradient.
//
// two_read_kernel: one block per row, which reads the row for the softmax and a second time for the gradient. So that
// the second read comes from L2, long rows get blocks of 512 threads, with registers for one or two rows at a time on
// a multiprocessor.
//
// one_read_kernel of logits_cluster.cuh: a cluster of blocks per row, which keep it in shared memory.
//
// Either way the logits of a row are read from memory once and its gradient written once, 2 V bytes of 16-bit logits
// each way; the cost of tokens is 40 bytes each.
#pragma once

#include "blocks/reduce.cuh"
#include "logits/logits_softmax.cuh"

namespace grpo::cuda {

enum class RowPass {
  kForward,   // logp, entropy, logsumexp; the softmax for kBackwardSaved
  kFused,     // logp, entropy, coefficients, gradient
  kBackward,  // gradient, from coefficients and the logsumexp that are given
  kBackwardSaved,  // gradient, from coefficients and the softmax of kForward: the row is read once
};

// Beside the logits. Null where not wanted, not given, or not of the pass.
struct RowWork {
  RowTokens tokens;
  float *logp, *entropy, *logsumexp;   // [T], outputs
  SoftmaxOfRow* softmax;               // [R or T, the fewer], output of kForward, input of kBackwardSaved
  const float *given_logsumexp;        // [T]
  const float *given_entropy;          // [T]
  const float *grad_logp;              // [T] for each rank, coefficients of the tokens
  const float *grad_entropy;           // [T] for each rank
  double grad_scale = 1;               // what the gradient is multiplied by
  double* target;                      // [T or R], scratch for what the tokens' own entries become
  RowSets sets{};                      // rows that have one are those of kept_row_kernel
  float* gathered = nullptr;           // [M], scratch of that

  // Where the softmax of a row that has tokens lies.
  __device__ __forceinline__ SoftmaxOfRow& softmax_of_row(int64_t r, const OwnTokens& own) const {
    return softmax[tokens.in.R <= tokens.in.T ? r : own.place];
  }
};

// How many of them there are.
inline int64_t softmaxes(int64_t R, int64_t T) { return R < T ? R : T; }

// Passes other than kFused. What that one has instead forms the coefficients of a token and writes them, of operands
// that were loaded before: those of a row's first token by a warp, while the logits arrive.
struct NoCoefficients {
  struct Operands {};
};

constexpr int kMostWarps = 16;

struct RowOfBlock {
  int64_t r;
  OwnTokens own;
};

struct RowShared {
  union {
    Online partial[kMostWarps];
    double sums[kMostWarps];
  };
  // Of the row: here they take no registers while the coefficients are formed.
  RowOfBlock block;
  SoftmaxOfRow softmax;
  float scale, scale2;
  alignas(8) unsigned char operands[72];  // of its first token
};

template <class Coefficients>
__device__ __forceinline__ typename Coefficients::Operands& operands_of_first(RowShared& s) {
  static_assert(sizeof(typename Coefficients::Operands) <= sizeof s.operands);
  return reinterpret_cast<typename Coefficients::Operands&>(s.operands);
}

// Before the softmax, by the last warp: memory is waited for while the logits arrive.
template <RowPass kPass, class Coefficients>
__device__ __forceinline__ void load_first_operands(const OwnTokens& own, const Coefficients& coefficients,
                                                    RowShared& s) {
  if constexpr (kPass == RowPass::kFused)
    if (warp_index() == static_cast<int>(blockDim.x) / kWarp - 1)
      coefficients.load_by_warp(own[0], operands_of_first<Coefficients>(s));
}

// ---- the tokens of a row, the same in both kernels ------------------------------------------------------------------

// Thread 0 receives what all threads of the block have.
__device__ __forceinline__ Online merge_block(Online own, RowShared& s, float scale2) {
  own = merge_lanes(own, scale2);
  if (lane_index() == 0) s.partial[warp_index()] = own;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int warp = 1; warp < static_cast<int>(blockDim.x) / kWarp; ++warp) merge(own, s.partial[warp], scale2);
  return own;
}

// The logit of the thread's first token, for which the columns of all ranks are looked at: in place, a peer may be
// writing the row already when the others are asked for.
template <class T>
__device__ __forceinline__ float logit_of(const LogitRows<T>& logits, int64_t r, int64_t column) {
  if (column < 0 || column >= logits.V) return -INFINITY;
  return softcapped_if(to_float(logits.row(r)[column]), logits.inverse_cap);
}
template <class T>
__device__ __forceinline__ int64_t column_of(const LogitRows<T>& logits, const RowWork& work, int64_t t) {
  return work.tokens.in.token[t] - logits.vocab_start;
}

template <RowPass kPass, class T, class Coefficients>
__device__ __forceinline__ void write_tokens(const LogitRows<T>& logits, const RowWork& work, const OwnTokens& own,
                                             int64_t r, RowShared& s, const SoftmaxOfRow& softmax,
                                             float first_logit, uint32_t rank, const Coefficients& coefficients) {
  for (int64_t j = threadIdx.x; j < own.count; j += blockDim.x) {
    const int64_t t = own[j];
    const float x = j == threadIdx.x ? first_logit : logit_of(logits, r, column_of(logits, work, t));
    const double exact = softmax.log_sum != softmax.log_sum ? NAN
                         : x == -INFINITY                   ? -INFINITY
                                                            : softmax.logp(x, s.scale);
    const float logp = static_cast<float>(exact), entropy = static_cast<float>(softmax.entropy);
    if (rank == 0) {
      if (work.logp != nullptr) work.logp[t] = logp;
      if (work.entropy != nullptr) work.entropy[t] = entropy;
      if (work.logsumexp != nullptr) work.logsumexp[t] = static_cast<float>(softmax.logsumexp(s.scale));
    }
    if constexpr (kPass == RowPass::kFused) {
      typename Coefficients::Operands operands;
      if (j > 0) coefficients.load(t, operands);
      coefficients(rank, t, j > 0 ? operands : operands_of_first<Coefficients>(s), logp, entropy);
    }
  }
}

struct RowCoefficients {
  const float *grad_logp, *grad_entropy;  // [T], the second may be null
  double logp, entropy;                   // their sums over the row
  bool zero;                              // all are exactly 0, which a sum that is 0 does not say
};

// What they are multiplied by of the call; the coefficients of kFused have it already.
template <RowPass kPass>
__device__ __forceinline__ double grad_scale_of(const RowWork& work) {
  return kPass == RowPass::kBackward ? work.grad_scale : 1;
}

template <RowPass kPass>
__device__ __forceinline__ RowCoefficients coefficients_of(const RowWork& work, const OwnTokens& own, uint32_t rank,
                                                           RowShared& s) {
  const int64_t offset = rank * work.tokens.in.T;
  RowCoefficients c{work.grad_logp + offset, work.grad_entropy == nullptr ? nullptr : work.grad_entropy + offset,
                    0, 0, false};
  bool some = false;
  for (int64_t j = threadIdx.x; j < own.count; j += blockDim.x) {
    const int64_t t = own[j];
    const float logp = c.grad_logp[t], entropy = c.grad_entropy == nullptr ? 0 : c.grad_entropy[t];
    c.logp += logp;
    c.entropy += entropy;
    some = some || !(logp == 0 && entropy == 0);
  }
  c.logp = block_sum(c.logp, s.sums);
  if (c.grad_entropy != nullptr) c.entropy = block_sum(c.entropy, s.sums);
  c.logp *= grad_scale_of<kPass>(work), c.entropy *= grad_scale_of<kPass>(work);
  c.zero = __syncthreads_or(some) == 0;
  return c;
}

// Columns begin to begin + n of the row become their gradient, y. All of the row's logits that tokens ask for are read
// before this block writes one, and `before_writing` waits until that holds for its peers.
template <RowPass kPass, bool kLong, class T, class G, class F>
__device__ __forceinline__ void gradient_of_row(const LogitRows<T>& logits, const RowWork& work, const OwnTokens& own,
                                                int64_t r, const SoftmaxOfRow& softmax, const RowCoefficients& c,
                                                float first_logit, const Slice<T>& slice, G* y, int64_t begin,
                                                F before_writing) {
  const int64_t end = begin + slice.n;
  const bool exists = isfinite(softmax.log_sum);  // else NaN, or every part of the vocabulary is -inf
  // Of the tokens of a column the first one writes it.
  const auto mine = [&](int64_t j, int64_t column) {
    if (column < begin || column >= end) return false;
    for (int64_t i = 0; i < j; ++i)
      if (column_of(logits, work, own[i]) == column) return false;
    return true;
  };
  if (exists && !c.zero)
    for (int64_t j = threadIdx.x; j < own.count; j += blockDim.x) {
      const int64_t column = column_of(logits, work, own[j]);
      if (!mine(j, column)) continue;
      double value = 0;
      for (int64_t i = j; i < own.count; ++i)
        if (column_of(logits, work, own[i]) == column) value += c.grad_logp[own[i]];
      value *= grad_scale_of<kPass>(work);
      const float x = j == threadIdx.x ? first_logit : logit_of(logits, r, column);
      const double logp = softmax.logp(x, logits.scale), p = exp(logp);
      if (p != 0) value -= p * (c.logp + c.entropy * (logp + softmax.entropy));  // not 0 * -inf
      if (logits.inverse_cap.high != 0) value *= cap_slope(x);
      work.target[own.place + j] = logits.slope() * value;
    }
  before_writing();
  if (!exists && !c.zero) return fill(y, slice.n, NAN);
  if (c.zero || (c.logp == 0 && c.entropy == 0))
    fill(y, slice.n, 0);
  else
    with_accuracy<kLong, T>(logits.V, [&](auto accurate) {
      write_gradient<accurate>(slice, y, gradient_line(softmax, c.logp, c.entropy, logits.slope(), logits.scale2));
    });
  if (c.zero) return;
  __syncthreads();
  for (int64_t j = threadIdx.x; j < own.count; j += blockDim.x) {
    const int64_t column = column_of(logits, work, own[j]);
    if (mine(j, column)) y[column - begin] = rounded_once<G>(work.target[own.place + j]);
  }
}

// ---- one block per row ----------------------------------------------------------------------------------------------

// Where a pass has no gradients to fill with zeros, its blocks take the rows that tokens name, if those are listed.
template <RowPass kPass>
__device__ __forceinline__ RowOfBlock row_of_block(const RowTokens& tokens, int64_t block) {
  if (kPass != RowPass::kForward || tokens.row == nullptr) return {block, tokens.of(block)};
  if (block >= int64_t{*tokens.count}) return {0, {tokens.t, 0, 0}};
  return {tokens.row[block], tokens.at(block)};
}

// Grid: R, or T where rows are listed. Block: 64, 256 or 512. Shared: 400. Work: each logit read twice, the second time
// from the L2 cache, each gradient written once. Bound: memory.
template <RowPass kPass, class T, class G, class Coefficients>
__global__ void __launch_bounds__(kMostWarps* kWarp, kPass == RowPass::kFused || kPass == RowPass::kBackward ? 1 : 2)
    two_read_kernel(LogitRows<T> given, GradRows<G> gradient, RowWork work,
                    const __grid_constant__ Coefficients coefficients) {
  DYN_SMEM(RowShared, s);
  const RowOfBlock block = row_of_block<kPass>(work.tokens, blockIdx.x);
  const int64_t r = block.r;
  if (work.sets.has(r)) return;
  LogitRows<T> logits = given.of_row(r);
  const OwnTokens own = block.own;
  G* y = kPass == RowPass::kForward ? nullptr : gradient.data + r * gradient.stride;
  if constexpr (kPass != RowPass::kForward) fill_padding(logits, gradient, r);
  if (own.count == 0) {
    if constexpr (kPass != RowPass::kForward) fill(y, logits.V, 0);
    return;
  }
  RowCoefficients c{};
  if constexpr (kPass == RowPass::kBackward || kPass == RowPass::kBackwardSaved) {
    c = coefficients_of<kPass>(work, own, 0, s);
    if (c.zero) return fill(y, logits.V, 0);
  }
  const Slice<T> slice = slice_of(logits.row(r), logits.V, logits.inverse_cap);
  const float first_logit =
      static_cast<int>(threadIdx.x) < own.count ? logit_of(logits, r, column_of(logits, work, own[threadIdx.x])) : 0;
  load_first_operands<kPass>(own, coefficients, s);
  SoftmaxOfRow softmax;
  if constexpr (kPass == RowPass::kBackwardSaved) {
    softmax = work.softmax_of_row(r, own);
  } else {
    Online online = no_logits();
    with_accuracy<false, T>(logits.V, [&](auto accurate) {
      add_groups<accurate>(online, slice, 0, slice.groups, logits.scale2);
      add_ends<accurate>(online, slice, logits.scale2);
    });
    online = merge_block(online, s, logits.scale2);
    if (threadIdx.x == 0) {
      softmax = softmax_of(online, logits.part);
      if constexpr (kPass == RowPass::kBackward)
        softmax = with_given(softmax, logits.scale, work.given_logsumexp[own[0]],
                             work.given_entropy == nullptr ? nullptr : work.given_entropy + own[0]);
      if (kPass == RowPass::kForward && work.softmax != nullptr) work.softmax_of_row(r, own) = softmax;
      s.softmax = softmax;
      s.scale = logits.scale, s.scale2 = logits.scale2;
      s.block = block;
    }
    __syncthreads();
    softmax = s.softmax;
  }
  if constexpr (kPass == RowPass::kForward || kPass == RowPass::kFused)
    write_tokens<kPass>(given, work, s.block.own, s.block.r, s, s.softmax, first_logit, 0, coefficients);
  if constexpr (kPass == RowPass::kFused) {
    logits.scale = s.scale, logits.scale2 = s.scale2;
    __syncthreads();
    c = coefficients_of<kPass>(work, own, 0, s);
  }
  if constexpr (kPass != RowPass::kForward)
    gradient_of_row<kPass, false>(logits, work, own, r, softmax, c, first_logit, slice, y, 0, [] { __syncthreads(); });
}

}  // namespace grpo::cuda
