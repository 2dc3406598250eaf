// Importance weights of a range of tokens, compiled for each instruction set. As in vector/ there are no -m options: a pragma
// covers what is included after it, and nothing else may be. The formulas and the sums are in double; which lanes a sum
// runs over depends on the instruction set, never on the threads.
#include "loss/importance_range.h"

#include <cmath>
#include <type_traits>

#include "vector/vector.h"

namespace grpo {
namespace {

namespace baseline {
constexpr int kLanes = 2;
#include "loss/importance_token.h"
#include "loss/importance_lanes.h"
}  // namespace baseline

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx,avx2,fma")
#endif
namespace avx2 {
constexpr int kLanes = 4;
#include "loss/importance_token.h"
#include "loss/importance_lanes.h"
}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#endif
namespace avx512 {
constexpr int kLanes = 8;
#include "loss/importance_token.h"
#include "loss/importance_lanes.h"
}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // defined(__x86_64__)

}  // namespace

const ImportanceLanes& importance_lanes() {
#if defined(__x86_64__)
  if (vector_kernels().lanes == 16) return avx512::kImportanceLanes;
  if (vector_kernels().lanes == 8) return avx2::kImportanceLanes;
#endif
  return baseline::kImportanceLanes;
}

}  // namespace grpo
