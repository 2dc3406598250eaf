#include "linear/kept.cuh"

#include "blocks/floats.cuh"
#include "blocks/radix_sort.cuh"
#include "blocks/reduce.cuh"
#include "logits/logits.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr uint32_t kNoColumn = UINT32_MAX;

struct Shared {
  double sums[kWarps];
  float most[kWarps];
};

// ---- pieces of 16 bytes of the head, and what belongs to them of another array --------------------------------------

// n elements from x[i] on; `whole`: x begins at a multiple of 16 bytes and i is one of n.
template <class T, int n>
__device__ __forceinline__ void load_lanes(const T* x, int64_t i, bool whole, float (&to)[n]) {
  if (whole && n % kLanes<T> == 0) {
#pragma unroll
    for (int v = 0; v < n; v += kLanes<T>) {
      float lanes[kLanes<T>];
      unpack<T>(*reinterpret_cast<const Words4*>(x + i + v), lanes);
#pragma unroll
      for (int lane = 0; lane < kLanes<T>; ++lane) to[(v + lane) % n] = lanes[lane];
    }
    return;
  }
#pragma unroll
  for (int v = 0; v < n; ++v) to[v] = to_float(x[i + v]);
}

// The sum over the lanes of a warp of x[D] y[D].
template <class X, class Y>
__device__ __forceinline__ float warp_dot(const X* x, const Y* y, int64_t D) {
  constexpr int kGroup = kLanes<Y>;
  const bool whole_x = aligned16(x), whole_y = aligned16(y);
  float sum[kGroup] = {};
  const int64_t groups = D / kGroup;
  for (int64_t g = lane_index(); g < groups; g += kWarp) {
    float a[kGroup], b[kGroup];
    load_lanes(x, g * kGroup, whole_x, a);
    load_lanes(y, g * kGroup, whole_y, b);
#pragma unroll
    for (int v = 0; v < kGroup; ++v) sum[v] = fmaf(a[v], b[v], sum[v]);
  }
  float total = 0;
  for (int64_t d = groups * kGroup + lane_index(); d < D; d += kWarp)
    total = fmaf(to_float(x[d]), to_float(y[d]), total);
#pragma unroll
  for (int v = 0; v < kGroup; ++v) total += sum[v];
  return warp_reduce(total, Add{});
}

// Where the largest of some numbers is wanted, NaN among them shows.
struct LargerOrNan {
  __device__ __forceinline__ float operator()(float x, float y) const { return x > y || x != x ? x : y; }
};

template <class Y>
__device__ __forceinline__ float logit_of(const Linear& linear, int64_t r, int64_t column) {
  const Y* head = reinterpret_cast<const Y*>(linear.head) + column * linear.head_stride;
  const auto product = [&]<class X>(X) {
    return warp_dot(reinterpret_cast<const X*>(linear.hidden) + r * linear.hidden_stride, head, linear.D);
  };
  const float z = linear.hidden_type == Float::kF32    ? product(float{})
                  : linear.hidden_type == Float::kBf16 ? product(bf16{})
                                                       : product(f16{});
  return linear.bias == nullptr ? z : z + load_float(linear.bias, linear.bias_type, column);
}

// ---- the softmax ----------------------------------------------------------------------------------------------------

// A warp forms a logit, the block the softmax, in float64: there are few.
// Grid: R or T, the fewer. Block: 128. Shared: 48. Work: 2 D operations per id. Bound: memory.
template <class Y>
__global__ void __launch_bounds__(kThreads)
    kept_softmax_kernel(Linear linear, KeptRows kept, float* logp, float* entropy, float* logsumexp) {
  DYN_SMEM(Shared, shared);
  const int64_t i = blockIdx.x;
  if (i >= *kept.named.count) return;
  const int64_t r = kept.named.row[i];
  const KeptSets& sets = kept.sets.kept;
  const Kept here = kept_here(sets, r);
  const bool single = set_of(sets, r).count == 1;
  const float scale = scale_of_row(linear.temperature, r);
  float* z = kept.logits + (here.ids - sets.ids);
  if (!single || logsumexp != nullptr)
    for (int64_t j = warp_index(); j < here.count; j += kWarps) {
      const float own = logit_of<Y>(linear, r, here.ids[j] - sets.first);
      if (lane_index() == 0) z[j] = softcapped_if(own, inverse_cap(linear.temperature));
    }
  __syncthreads();
  KeptSoftmax softmax{0, 0, 0};
  float own_logsumexp = 0;
  if (single) {
    own_logsumexp = here.count == 0 ? -INFINITY : logsumexp != nullptr ? z[0] * scale : 0;
    if (scale != scale) softmax = {0, NAN, NAN}, own_logsumexp = NAN;
  } else {
    float most = -INFINITY;
    for (int64_t j = threadIdx.x; j < here.count; j += kThreads) most = LargerOrNan{}(most, z[j]);
    most = block_reduce(most, shared.most, LargerOrNan{});
    double sum = 0, weighted = 0;  // of exp(x), and of that times x
    for (int64_t j = threadIdx.x; j < here.count; j += kThreads) {
      // The difference first: a constant added to a row changes no digit.
      const double x = (static_cast<double>(z[j]) - most) * scale, e = exp(x);
      sum += e;
      weighted += e > 0 ? e * x : 0;
    }
    sum = block_sum(sum, shared.sums);
    weighted = block_sum(weighted, shared.sums);
    softmax = {most, log(sum), log(sum) - weighted / sum};
    if (sum != sum) softmax.entropy = NAN;  // NaN among the logits
    if (linear.part && most == -INFINITY) softmax = {0, -INFINITY, 0};
    own_logsumexp = static_cast<float>(softmax.most * scale + softmax.log_sum);
  }
  if (threadIdx.x == 0) kept.softmax[i] = softmax;
  const int32_t end = kept.named.end(i);
  for (int32_t j = kept.named.begin(i) + threadIdx.x; j < end; j += kThreads) {
    const int32_t t = kept.named.tokens[j];
    const int64_t place = ids_before(here, linear.token[t]);
    const bool is_here = place < here.count && here.ids[place] == linear.token[t];
    const double logit = !is_here ? -INFINITY : single ? 0 : static_cast<double>(z[place]);
    const double exact = (logit - softmax.most) * scale - softmax.log_sum;
    if (logp != nullptr)
      logp[t] = softmax.log_sum != softmax.log_sum ? NAN
                : logit == -INFINITY               ? -INFINITY
                                                   : static_cast<float>(exact);
    if (entropy != nullptr) entropy[t] = static_cast<float>(softmax.entropy);
    if (logsumexp != nullptr) logsumexp[t] = own_logsumexp;
  }
}

// ---- the gradients --------------------------------------------------------------------------------------------------

// Grid: ceil(M / 128). Block: 128. Shared: 0. Work: 4 bytes per id. Bound: memory.
__global__ void __launch_bounds__(kThreads) no_columns_kernel(uint32_t* column, int64_t M) {
  const int64_t j = thread_index();
  if (j < M) column[j] = kNoColumn;
}

// The gradient of a row's set in place of its logits, then gradHidden: a thread has 16 bytes of every row of the head.
// Grid: R or T, the fewer. Block: 128. Shared: 0. Work: 2 D operations per id. Bound: memory.
template <class Y>
__global__ void __launch_bounds__(kThreads, 8)
    kept_gradient_kernel(Linear linear, KeptRows kept, const float* logsumexp, const float* entropy,
                         const float* grad_logp, const float* grad_entropy, LinearGradients gradients) {
  const int64_t i = blockIdx.x;
  if (i >= *kept.named.count) return;
  const int64_t r = kept.named.row[i], D = linear.D;
  const KeptSets& sets = kept.sets.kept;
  const Kept here = kept_here(sets, r);
  const float scale = scale_of_row(linear.temperature, r);
  const int32_t begin = kept.named.begin(i), end = kept.named.end(i);
  double logp = 0, of_entropy = 0;
  bool some = false;
  for (int32_t j = begin; j < end; ++j) {  // the same in all threads
    const int32_t t = kept.named.tokens[j];
    const float own = in_set(sets, r, linear.token[t]) ? grad_logp[t] : 0;
    const float bonus = grad_entropy == nullptr ? 0 : grad_entropy[t];
    logp += own, of_entropy += bonus;
    some = some || !(own == 0 && bonus == 0);
  }
  if (!some || (set_of(sets, r).count == 1 && scale == scale)) return;
  const double softcap = linear.temperature.softcap, slope = softcap == 0 ? scale : scale / softcap;
  logp *= gradients.scale, of_entropy *= gradients.scale;
  KeptSoftmax softmax = kept.softmax[i];
  const int32_t first = kept.named.tokens[begin];
  const auto equal_but_for_rounding = [](double given, double own) {
    return isfinite(own) && fabs(given - own) <= 0x1p-22 * fmax(1.0, fabs(own));
  };
  if (logsumexp != nullptr && !equal_but_for_rounding(logsumexp[first], softmax.most * scale + softmax.log_sum))
    softmax.log_sum = logsumexp[first] - softmax.most * scale;
  if (entropy != nullptr && !equal_but_for_rounding(entropy[first], softmax.entropy)) softmax.entropy = entropy[first];
  const int64_t place = here.ids - sets.ids;
  float* z = kept.logits + place;
  const bool exists = isfinite(softmax.log_sum);  // a set of one id has no logit where its temperature is none
  for (int64_t j = threadIdx.x; j < here.count; j += kThreads) {
    kept.column[place + j] = static_cast<uint32_t>(here.ids[j] - sets.first);
    kept.row[place + j] = static_cast<int32_t>(r);
    if (!exists) {
      z[j] = NAN;
      continue;
    }
    double value = 0;
    for (int32_t k = begin; k < end; ++k)
      if (linear.token[kept.named.tokens[k]] == here.ids[j]) value += grad_logp[kept.named.tokens[k]];
    value *= gradients.scale;
    const double log_p = (z[j] - softmax.most) * scale - softmax.log_sum, p = exp(log_p);
    if (p != 0) value -= p * (logp + of_entropy * (log_p + softmax.entropy));  // not 0 * -inf
    if (softcap != 0) value *= cap_slope(z[j]);
    z[j] = static_cast<float>(slope * value);
  }
  if (gradients.hidden == nullptr) return;
  __syncthreads();
  constexpr int kGroup = kLanes<Y>;
  const Y* head = reinterpret_cast<const Y*>(linear.head);
  const bool whole = aligned16(head) && linear.head_stride % kGroup == 0;
  for (int64_t d = int64_t{threadIdx.x} * kGroup; d < D; d += int64_t{kThreads} * kGroup) {
    float sum[kGroup] = {};
    for (int64_t j = 0; j < here.count; ++j) {
      const Y* row = head + (here.ids[j] - sets.first) * linear.head_stride;
      float lanes[kGroup] = {};
      if (d + kGroup <= D) load_lanes(row, d, whole, lanes);
      else
        for (int v = 0; d + v < D; ++v) lanes[v] = to_float(row[d + v]);
#pragma unroll
      for (int v = 0; v < kGroup; ++v) sum[v] = fmaf(z[j], lanes[v], sum[v]);
    }
#pragma unroll
    for (int v = 0; v < kGroup; ++v)
      if (d + v < D) store_float(gradients.hidden, gradients.hidden_type, r * gradients.hidden_stride + d + v, sum[v]);
  }
}

// Where gradHead and gradHeadBias of rows with sets go: beside those of the others, where there are any, into sums that
// are rounded after all of them.
struct Sums {
  void* out;  // [V,size], rows `stride` apart
  Float type;
  int64_t stride;
  float* common;  // [V,size], null: out
  int64_t size;
};

__device__ __forceinline__ void add_to(const Sums& sums, bool common, int64_t v, int64_t d, float x) {
  if (common && sums.common != nullptr) {
    sums.common[v * sums.size + d] += x;
  } else {
    const int64_t i = v * sums.stride + d;
    store_float(sums.out, sums.type, i, load_float(sums.out, sums.type, i) + x);
  }
}

// The block of the first pair of a column sums over the column's pairs.
// Grid: M. Block: 128. Shared: 0. Work: 2 D operations per id. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    kept_head_kernel(Linear linear, KeptRows kept,
                     const uint32_t* column,      // [M], sorted
                     const uint32_t* place,       // [M]
                     const uint32_t* whole_rows,  // [1], how many rows have no set
                     Sums head, Sums bias) {
  const int64_t first = blockIdx.x, M = kept.sets.M, D = linear.D;
  const uint32_t v = column[first];
  if (v == kNoColumn || (first > 0 && column[first - 1] == v)) return;
  const bool common = *whole_rows != 0;
  constexpr int kOwn = 8;  // elements of a thread, of which the loads are under way together
  for (int64_t base = threadIdx.x; base < D && head.out != nullptr; base += kThreads * kOwn) {
    float sum[kOwn] = {};
    for (int64_t j = first; j < M && column[j] == v; ++j) {
      const float gradient = kept.logits[place[j]];
      const int64_t row = int64_t{kept.row[place[j]]} * linear.hidden_stride;
#pragma unroll
      for (int i = 0; i < kOwn; ++i)
        if (base + i * kThreads < D)
          sum[i] = fmaf(gradient, load_float(linear.hidden, linear.hidden_type, row + base + i * kThreads), sum[i]);
    }
#pragma unroll
    for (int i = 0; i < kOwn; ++i)
      if (base + i * kThreads < D) add_to(head, common, v, base + i * kThreads, sum[i]);
  }
  if (bias.out == nullptr || threadIdx.x != 0) return;
  double sum = 0;
  for (int64_t j = first; j < M && column[j] == v; ++j) sum += kept.logits[place[j]];
  add_to(bias, common, v, 0, static_cast<float>(sum));
}

template <class Visit>
void with_head_type(Float type, Visit visit) {
  if (type == Float::kF32) visit(float{});
  else if (type == Float::kBf16) visit(bf16{});
  else visit(f16{});
}

}  // namespace

KeptRows kept_rows(const Linear& linear, const TokenRows& tokens, const LinearGradients* gradients, Launch& on) {
  KeptRows kept{};
  kept.sets = tokens.sets;
  if (!kept.exist()) return kept;
  TokenRows own = tokens;
  own.which = TokenRows::kWithSet;
  kept.named = named_rows(own, on);
  const int64_t M = kept.sets.M;
  kept.logits = on.scratch<float>(M);
  kept.softmax = on.scratch<KeptSoftmax>(most_named(linear));
  if (gradients == nullptr) return kept;
  kept.column = on.scratch<uint32_t>(M);
  kept.row = on.scratch<int32_t>(M);
  return kept;
}

void kept_softmax(const Linear& linear, const KeptRows& kept, float* logp, float* entropy, float* logsumexp,
                  Launch& on) {
  if (!kept.exist()) return;
  on.runs("kept_softmax_kernel");
  with_head_type(linear.head_type, [&]<class Y>(Y) {
    on(kept_softmax_kernel<Y>, {most_named(linear), kThreads, sizeof(Shared)}, linear, kept, logp, entropy, logsumexp);
  });
}

void kept_gradient(const Linear& linear, const KeptRows& kept, const LinearChunk& chunk, const float* logsumexp,
                   const float* entropy, const float* grad_logp, const float* grad_entropy,
                   const LinearGradients& gradients, Launch& on) {
  if (!kept.exist()) return;
  const int64_t M = kept.sets.M;
  on(no_columns_kernel, {ceil_div(M, kThreads), kThreads}, kept.column, M);
  with_head_type(linear.head_type, [&]<class Y>(Y) {
    on(kept_gradient_kernel<Y>, {most_named(linear), kThreads}, linear, kept, logsumexp, entropy,
       grad_logp, grad_entropy, gradients);
  });
  if (gradients.head == nullptr && gradients.bias == nullptr) return;
  const Sorted sorted = radix_sort(kept.column, M, true, on);
  on(kept_head_kernel, {M, kThreads}, linear, kept, sorted.keys, sorted.values, chunk.named.count,
     Sums{gradients.head, gradients.head_type, gradients.head_stride, chunk.head_sum, linear.D},
     Sums{gradients.bias, gradients.bias_type, 1, chunk.bias_sum, 1});
}

}  // namespace grpo::cuda
