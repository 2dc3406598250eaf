// A row of logits, or the part of it that a block has: the softmax in one pass over the logits, and the gradient.
//
// All exponents are formed from a largest logit, (x - max) * log2e / temperature, so that adding a constant to a row
// changes no digit: x * log2e / temperature - constant in one multiply-add would lose those of a row around 1e4.
//
// 2^u: ex2.approx may err by 2^-22, four times what rounding an exp to float32 loses. In a row of few columns, and in
// the gradient of float32 logits, no other error is as large: float32 rows and rows shorter than kLongRow take
// exp2_accurate (2^-23.5), 10 instructions in place of 1. While memory brings 4 bytes (4.2 TB/s over 132
// multiprocessors at 1.75 GHz) there are 28 issue slots for a lane; of these the softmax of a float32 element takes
// 17, and its gradient 15, with 28 more for the 4 bytes it writes. An element of 16 bits has 14 slots, of which the
// softmax takes 8 with ex2.approx and would take 18 without: long rows of 16 bits keep it. In those the largest logit
// counts for exactly 1, so that less than 2^-22 of the sum can be wrong; the errors of many terms cancel, and a few
// large ones stay within what the plain formula loses (token_logprob.test.ts, "long rows ... in which ... count").
#pragma once

#include "blocks/exp2.cuh"
#include "blocks/lanes.cuh"
#include "logits/logits.cuh"

namespace grpo::cuda {

// ---- which power of 2 -----------------------------------------------------------------------------------------------

// Rows of so many bytes are long: they have at least 2048 terms, of 16 bits 4096.
constexpr int64_t kLongRow = 8192;

// visit(true_type) where rows of V columns take exp2_accurate, else visit(false_type): the same in every kernel, so
// that the bits are. kLong: they are long, which the compiler may know.
template <bool kLong, class T, class Visit>
__device__ __forceinline__ void with_accuracy(int64_t V, Visit visit) {
  if constexpr (sizeof(T) == 4) {
    visit(std::true_type{});
  } else if constexpr (kLong) {
    visit(std::false_type{});
  } else {
    if (V * int64_t{sizeof(T)} < kLongRow) visit(std::true_type{});
    else visit(std::false_type{});
  }
}

// ---- the softmax of a row -------------------------------------------------------------------------------------------

// Of the logits so far, u = (x - max) * scale2: sum of 2^u and of 2^u u. x = -inf adds 0. A NaN or +inf makes sum NaN.
struct alignas(16) Online {
  float max, sum, weighted, unused;
};
__device__ __forceinline__ Online no_logits() { return {-INFINITY, 0, 0, 0}; }

// With `max`, not below the own one, in its place.
__device__ __forceinline__ void rescale(Online& o, float max, float scale2) {
  const float u = fmaxf((o.max - max) * scale2, kFar);  // kFar where both are -inf, and nothing is to be rescaled
  const float factor = exp2_accurate(u);
  o.weighted = factor * fmaf(o.sum, u, o.weighted);
  o.sum *= factor;
  o.max = max;
}

__device__ __forceinline__ void merge(Online& o, Online other, float scale2) {
  const float max = fmaxf(o.max, other.max);
  rescale(o, max, scale2);
  rescale(other, max, scale2);
  o.sum += other.sum;
  o.weighted += other.weighted;
}

template <bool kAccurate, int kCount>
__device__ __forceinline__ void add(Online& o, const float (&x)[kCount], float scale2) {
  float max = x[0];
#pragma unroll
  for (int i = 1; i < kCount; ++i) max = fmaxf(max, x[i]);
  if (max > o.max) rescale(o, max, scale2);
  const float origin = o.max == -INFINITY ? 0 : o.max;  // -inf less -inf would be NaN
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float u = (x[i] - origin) * scale2;
    if constexpr (kAccurate) {
      const float near = u < kFar ? kFar : u;  // NaN stays, where a maximum would drop it
      const float power = exp2_accurate(near);
      o.sum += power;
      o.weighted = fmaf(power, near, o.weighted);
    } else {
      const float power = exp2_approx(u);
      o.sum += power;
      o.weighted = fmaf(power, fmaxf(u, kFar), o.weighted);
    }
  }
}

// Groups begin to end of the slice, by the threads of the block; loads of several groups are under way at a time, but
// with a soft-cap, which takes the registers, and longer than a load.
template <bool kAccurate, class T>
__device__ __forceinline__ void add_groups(Online& o, const Slice<T>& slice, int32_t begin, int32_t end, float scale2) {
  constexpr int kAhead = 4;
  const bool capped = slice.inverse_cap.high != 0;
  const int32_t threads = blockDim.x;
  int32_t g = begin + threadIdx.x;
  for (; !capped && g + (kAhead - 1) * threads < end; g += kAhead * threads) {
    Words4 words[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) words[i] = slice.group(g + i * threads);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      float x[kLanes<T>];
      unpack<T>(words[i], x);
      add<kAccurate>(o, x, scale2);
    }
  }
  for (; g < end; g += threads) {
    float x[kLanes<T>];
    slice.unpack_group(slice.group(g), x);
    add<kAccurate>(o, x, scale2);
  }
}

template <bool kAccurate, class T>
__device__ __forceinline__ void add_ends(Online& o, const Slice<T>& slice, float scale2) {
  const int32_t i = slice.tail() + threadIdx.x;  // they are fewer than threads
  if (i >= slice.n) return;
  const float x[1] = {slice.at(i)};
  add<kAccurate>(o, x, scale2);
}

// Of the lanes' logits; complete in lane 0.
__device__ __forceinline__ Online merge_lanes(Online o, float scale2) {
  rescale(o, warp_reduce(o.max, [](float a, float b) { return fmaxf(a, b); }), scale2);
  o.sum = warp_reduce(o.sum, Add{});
  o.weighted = warp_reduce(o.weighted, Add{});
  return o;
}

// Of x * scale, as RowSoftmax of the CPU.
struct SoftmaxOfRow {
  double max;      // of x, a float32
  double log_sum;  // logsumexp - scale * max
  double entropy;

  __device__ __forceinline__ double logsumexp(float scale) const { return scale * max + log_sum; }
  __device__ __forceinline__ double logp(float x, float scale) const { return scale * (x - max) - log_sum; }
};

__device__ __forceinline__ SoftmaxOfRow softmax_of(const Online& o, bool part) {
  if (o.max == -INFINITY) {  // only -inf, or NaN
    if (part && o.sum == 0) return {0, -INFINITY, 0};
    return {0, NAN, NAN};
  }
  const double sum = o.sum < 1 ? 1 : o.sum;  // the largest logit alone has 1
  const double log_sum = log(sum);
  return {o.max, log_sum, log_sum - 0.6931471805599453 * o.weighted / sum};
}

__device__ __forceinline__ bool equal_but_for_rounding(double given, double own) {
  return isfinite(own) && fabs(given - own) <= 0x1p-22 * fmax(1.0, fabs(own));
}

// See with_given of the CPU.
__device__ __forceinline__ SoftmaxOfRow with_given(SoftmaxOfRow own, float scale, float logsumexp,
                                                   const float* entropy) {
  if (!equal_but_for_rounding(logsumexp, own.logsumexp(scale)))
    own.log_sum = logsumexp - scale * own.max;
  if (entropy != nullptr && !equal_but_for_rounding(*entropy, own.entropy)) own.entropy = *entropy;
  return own;
}

// ---- the gradient of a row ------------------------------------------------------------------------------------------

// y = 2^u (a + b u)
struct GradientLine {
  float max, scale2, a, b;

  template <bool kAccurate>
  __device__ __forceinline__ float at(float x) const {
    const float u = fmaxf((x - max) * scale2, kFar);
    return (kAccurate ? exp2_accurate(u) : exp2_approx(u)) * fmaf(b, u, a);
  }
};

// Of a loss with derivatives `logp` and `entropy` by the row's logp and entropy, but for the tokens' own entries.
__device__ __forceinline__ GradientLine gradient_line(const SoftmaxOfRow& row, double logp, double entropy,
                                                      double slope, float scale2) {
  const double p_of_max = exp(-row.log_sum);
  return {static_cast<float>(row.max), scale2,
          static_cast<float>(-slope * (logp + entropy * (row.entropy - row.log_sum)) * p_of_max),
          static_cast<float>(-slope * entropy * 0.6931471805599453 * p_of_max)};
}

// y[n] from the slice, by the threads of the block; y may be where the slice was read from. What is stored is not read
// again soon: it leaves the cache first, and what others have yet to read stays. Stores are of 16 bytes at aligned
// addresses, whatever the one of y: for that a row in shared memory is read at a shift. In
// place x and y are aligned alike, so that no thread reads what another one writes. Up to 7 elements before and 14
// after them are written one by one.
template <bool kAccurate, class T, class G>
__device__ __forceinline__ void write_gradient(const Slice<T>& slice, G* y, const GradientLine& line) {
  constexpr int kAhead = 2;
  const bool capped = slice.inverse_cap.high != 0;
  const int32_t threads = blockDim.x, head = static_cast<int32_t>(elements_to_boundary(y, slice.n));
  const int32_t groups = head < slice.tail() ? (slice.tail() - head) / kLanes<T> : 0;
  const auto first = [&](int32_t g) { return head + g * kLanes<T>; };
  const auto store = [&](int32_t g, const float (&x)[kLanes<T>]) {
    G* to = y + first(g);
#pragma unroll
    for (int i = 0; i < kLanes<T>; i += kLanes<G>) store_stream(reinterpret_cast<Words4*>(to + i), packed<G>(x + i));
  };
  const auto group = [&](int32_t g, const Words4& words) {
    float x[kLanes<T>];
    unpack<T>(words, x);
#pragma unroll
    for (int i = 0; i < kLanes<T>; ++i) x[i] = line.template at<kAccurate>(x[i]);
    store(g, x);
  };
  const auto capped_group = [&](int32_t g, const Words4& words) {
    float x[kLanes<T>];
    slice.unpack_group(words, x);
#pragma unroll
    for (int i = 0; i < kLanes<T>; ++i) x[i] = line.template at<kAccurate>(x[i]) * softcap_slope(x[i]);
    store(g, x);
  };
  int32_t g = threadIdx.x;
  for (; !capped && g + (kAhead - 1) * threads < groups; g += kAhead * threads) {
    Words4 words[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) words[i] = slice.words(first(g + i * threads));
#pragma unroll
    for (int i = 0; i < kAhead; ++i) group(g + i * threads, words[i]);
  }
  for (; !capped && g < groups; g += threads) group(g, slice.words(first(g)));
  for (; g < groups; g += threads) capped_group(g, slice.words(first(g)));
  int32_t i = threadIdx.x;  // those at the ends are fewer than threads
  if (i >= head) i += groups * kLanes<T>;
  if (i >= slice.n) return;
  const float x = slice.at(i), gradient = line.template at<kAccurate>(x);
  y[i] = from_float<G>(capped ? gradient * softcap_slope(x) : gradient);
}

// Rounded once: on the way to 16 bits, the last bit of a float32 that is not exact is made odd, so that the second
// rounding never meets a tie that the first one made.
template <class G>
__device__ __forceinline__ G rounded_once(double value) {
  float rounded = static_cast<float>(value);
  uint32_t bits = __builtin_bit_cast(uint32_t, rounded);
  if (sizeof(G) == 2 && isfinite(rounded) && rounded != value && rounded != 0 && (bits & 1) == 0) {
    bits += fabs(value) > fabs(static_cast<double>(rounded)) ? 1 : -1;
    rounded = __builtin_bit_cast(float, bits);
  }
  return from_float<G>(rounded);
}

}  // namespace grpo::cuda
