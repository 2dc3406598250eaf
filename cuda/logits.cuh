// A row of logits, or the part of it that a block has: the softmax in one pass over the logits, and the gradient. Loads
// and stores are of 16 bytes where the address allows, else of one element.
//
// All exponents are formed from a largest logit, (x - max) * log2e / temperature, so that adding a constant to a row
// changes no digit: x * log2e / temperature - constant in one multiply-add would lose those of a row around 1e4.
#pragma once

#include "../native/logits.h"
#include "row_tokens.cuh"

namespace grpo::cuda {

template <class T>
struct LogitRows {
  const T* data;  // [R,V]
  int64_t stride, R, V;
  float scale;  // 1 / temperature
  bool part;    // columns vocab_start.. of a vocabulary, not the whole of it
  int64_t vocab_start;

  __device__ __forceinline__ const T* row(int64_t r) const { return data + r * stride; }
  __device__ __forceinline__ float scale2() const { return static_cast<float>(scale * 1.4426950408889634); }
};

template <class G>
struct GradRows {
  G* data;  // [R,V], may be the logits
  int64_t stride;
};

// ---- vectors of 16 bytes --------------------------------------------------------------------------------------------

template <class T>
constexpr int kLanes = 16 / sizeof(T);

template <class T>
__device__ __forceinline__ void unpack(const Words4& words, float (&x)[kLanes<T>]) {
  const uint32_t w[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      x[i] = __builtin_bit_cast(float, w[i]);
    } else {
      x[2 * i] = to_float(T{static_cast<uint16_t>(w[i])});
      x[2 * i + 1] = to_float(T{static_cast<uint16_t>(w[i] >> 16)});
    }
  }
}

template <class T>
__device__ __forceinline__ Words4 packed(const float* x) {  // [kLanes<T>]
  if constexpr (sizeof(T) == 4)
    return {__builtin_bit_cast(uint32_t, x[0]), __builtin_bit_cast(uint32_t, x[1]), __builtin_bit_cast(uint32_t, x[2]),
            __builtin_bit_cast(uint32_t, x[3])};
  else
    return {pack2<T>(x[0], x[1]), pack2<T>(x[2], x[3]), pack2<T>(x[4], x[5]), pack2<T>(x[6], x[7])};
}

template <class T>
__device__ __forceinline__ bool aligned16(const T* x) {
  return reinterpret_cast<uintptr_t>(x) % 16 == 0;
}

// Elements before the first address that is a multiple of 16, at most n.
template <class T>
__device__ __forceinline__ int64_t elements_to_boundary(const T* x, int64_t n) {
  const int64_t head = (16 - reinterpret_cast<uintptr_t>(x) % 16) % 16 / sizeof(T);
  return head < n ? head : n;
}

// x[n] as groups of 16 bytes and a few elements after them. A group is the same elements wherever the row begins, so
// that sums have the same bits at any address; where it is not aligned it is read element by element.
template <class T>
struct Slice {
  const T* x;            // [n]
  const Words4* copied;  // [groups] in shared memory, null where x is read itself
  int32_t n, groups;
  bool aligned;  // x is

  __device__ __forceinline__ int32_t tail() const { return groups * kLanes<T>; }

  __device__ __forceinline__ Words4 group_of_x(int64_t g) const {
    if (aligned) return reinterpret_cast<const Words4*>(x)[g];
    const T* from = x + g * kLanes<T>;
    if constexpr (sizeof(T) == 4) {
      return {__builtin_bit_cast(uint32_t, from[0]), __builtin_bit_cast(uint32_t, from[1]),
              __builtin_bit_cast(uint32_t, from[2]), __builtin_bit_cast(uint32_t, from[3])};
    } else {
      const auto two = [&](int i) { return uint32_t{from[i + 1].bits} << 16 | from[i].bits; };
      return {two(0), two(2), two(4), two(6)};
    }
  }
  __device__ __forceinline__ Words4 group(int64_t g) const { return copied != nullptr ? copied[g] : group_of_x(g); }
};

template <class T>
__device__ __forceinline__ Slice<T> slice_of(const T* x, int64_t n) {
  return {x, nullptr, static_cast<int32_t>(n), static_cast<int32_t>(n / kLanes<T>), aligned16(x)};
}

// y[n] = value, by the threads of the block.
template <class G>
__device__ __forceinline__ void fill(G* y, int64_t n, float value) {
  const int64_t head = elements_to_boundary(y, n), groups = (n - head) / kLanes<G>;
  float x[kLanes<G>];
#pragma unroll
  for (int i = 0; i < kLanes<G>; ++i) x[i] = value;
  const Words4 words = packed<G>(x);
  Words4* middle = reinterpret_cast<Words4*>(y + head);
  for (int64_t g = threadIdx.x; g < groups; g += blockDim.x) middle[g] = words;
  for (int64_t i = threadIdx.x; i < head; i += blockDim.x) y[i] = from_float<G>(value);
  for (int64_t i = head + groups * kLanes<G> + threadIdx.x; i < n; i += blockDim.x) y[i] = from_float<G>(value);
}

// ---- the softmax of a row -------------------------------------------------------------------------------------------

// Exponents of 2 below it count as it: their power is 0, and the product of the two stays 0 instead of 0 * -inf.
constexpr float kFar = -200;

// Of the logits so far, u = (x - max) * scale2: sum of 2^u and of 2^u u. x = -inf adds 0. A NaN or +inf makes sum NaN.
struct alignas(16) Online {
  float max, sum, weighted, unused;
};
__device__ __forceinline__ Online no_logits() { return {-INFINITY, 0, 0, 0}; }

// With `max`, not below the own one, in its place.
__device__ __forceinline__ void rescale(Online& o, float max, float scale2) {
  const float u = fmaxf((o.max - max) * scale2, kFar);  // kFar where both are -inf, and nothing is to be rescaled
  const float factor = u == 0 ? 1 : exp2_approx(u);
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

template <int kCount>
__device__ __forceinline__ void add(Online& o, const float (&x)[kCount], float scale2) {
  float max = x[0];
#pragma unroll
  for (int i = 1; i < kCount; ++i) max = fmaxf(max, x[i]);
  if (max > o.max) rescale(o, max, scale2);
  const float origin = o.max == -INFINITY ? 0 : o.max;  // -inf less -inf would be NaN
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float u = (x[i] - origin) * scale2, power = exp2_approx(u);
    o.sum += power;
    o.weighted = fmaf(power, fmaxf(u, kFar), o.weighted);
  }
}

// Groups begin to end of the slice, by the threads of the block; loads of several groups are under way at a time.
template <class T>
__device__ __forceinline__ void add_groups(Online& o, const Slice<T>& slice, int64_t begin, int64_t end, float scale2) {
  constexpr int kAhead = 4;
  int64_t g = begin + threadIdx.x;
  for (; g + (kAhead - 1) * int64_t{blockDim.x} < end; g += kAhead * int64_t{blockDim.x}) {
    Words4 words[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) words[i] = slice.group(g + i * int64_t{blockDim.x});
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      float x[kLanes<T>];
      unpack<T>(words[i], x);
      add(o, x, scale2);
    }
  }
  for (; g < end; g += blockDim.x) {
    float x[kLanes<T>];
    unpack<T>(slice.group(g), x);
    add(o, x, scale2);
  }
}

template <class T>
__device__ __forceinline__ void add_ends(Online& o, const Slice<T>& slice, float scale2) {
  const auto one = [&](int64_t i) {
    const float x[1] = {to_float(slice.x[i])};
    add(o, x, scale2);
  };
  for (int64_t i = slice.tail() + threadIdx.x; i < slice.n; i += blockDim.x) one(i);
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

// y = p (a + b u), p = 2^u factor; u is not below kFar in the sum.
struct GradientLine {
  float max, scale2, factor, a, b;

  __device__ __forceinline__ float at(float x) const {
    const float u = (x - max) * scale2;
    return exp2_approx(u) * factor * fmaf(b, fmaxf(u, kFar), a);
  }
};

// Of a loss with derivatives `logp` and `entropy` by the row's logp and entropy, but for the tokens' own entries.
__device__ __forceinline__ GradientLine gradient_line(const SoftmaxOfRow& row, double logp, double entropy, float scale,
                                                      float scale2) {
  return {static_cast<float>(row.max), scale2, static_cast<float>(exp(-row.log_sum)),
          static_cast<float>(-scale * (logp + entropy * (row.entropy - row.log_sum))),
          static_cast<float>(-scale * entropy * 0.6931471805599453)};
}

// y[n] from the slice, by the threads of the block; y may be where the slice was read from.
template <class T, class G>
__device__ __forceinline__ void write_gradient(const Slice<T>& slice, G* y, const GradientLine& line) {
  constexpr int kAhead = 2;
  const bool whole = aligned16(y);
  const auto one = [&](int64_t i) { y[i] = from_float<G>(line.at(to_float(slice.x[i]))); };
  const auto group = [&](int64_t g, const Words4& words) {
    float x[kLanes<T>];
    unpack<T>(words, x);
#pragma unroll
    for (int i = 0; i < kLanes<T>; ++i) x[i] = line.at(x[i]);
    G* to = y + g * kLanes<T>;
    if (whole) {
#pragma unroll
      for (int i = 0; i < kLanes<T>; i += kLanes<G>) *reinterpret_cast<Words4*>(to + i) = packed<G>(x + i);
    } else {
#pragma unroll
      for (int i = 0; i < kLanes<T>; ++i) to[i] = from_float<G>(x[i]);
    }
  };
  int64_t g = threadIdx.x;
  for (; g + (kAhead - 1) * int64_t{blockDim.x} < slice.groups; g += kAhead * int64_t{blockDim.x}) {
    Words4 words[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) words[i] = slice.group(g + i * int64_t{blockDim.x});
#pragma unroll
    for (int i = 0; i < kAhead; ++i) group(g + i * int64_t{blockDim.x}, words[i]);
  }
  for (; g < slice.groups; g += blockDim.x) group(g, slice.group(g));
  for (int64_t i = slice.tail() + threadIdx.x; i < slice.n; i += blockDim.x) one(i);
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
