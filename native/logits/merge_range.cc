// The merge of a range of tokens, compiled for each instruction set, as loss/policy_loss_range.cc: a pragma covers what
// is included after it. No product is added without being rounded, so that ranks that hold the same parts get the same
// bits, whatever their machines can do.
#include "logits/merge_range.h"

#include <cmath>
#include <type_traits>

#include "formulas/formula.h"
#include "vector/vector.h"

#if defined(__clang__)
#pragma clang fp contract(off)
#else
#pragma GCC optimize("fp-contract=off")
#endif

namespace grpo {
namespace {

namespace baseline {
constexpr int kLanes = 2;
#include "formulas/merge_token_logprob.h"
#include "logits/merge_lanes.h"
}  // namespace baseline

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx,avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx,avx2")
#endif
namespace avx2 {
constexpr int kLanes = 4;
#include "formulas/merge_token_logprob.h"
#include "logits/merge_lanes.h"
}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl")
#endif
namespace avx512 {
constexpr int kLanes = 8;
#include "formulas/merge_token_logprob.h"
#include "logits/merge_lanes.h"
}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // defined(__x86_64__)

}  // namespace

MergeRange merge_range() {
#if defined(__x86_64__)
  if (vector_kernels().lanes == 16) return {avx512::merge, avx512::first_claimed_twice};
  if (vector_kernels().lanes == 8) return {avx2::merge, avx2::first_claimed_twice};
#endif
  return {baseline::merge, baseline::first_claimed_twice};
}

bool claims_token(double logp) { return baseline::claims_token<double>({logp, 0, 0}); }

}  // namespace grpo
