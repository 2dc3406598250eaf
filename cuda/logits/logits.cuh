// Rows of logits in memory: loads and stores are of 16 bytes, at the ends of rows of one element.
#pragma once

#include "blocks/softcap.cuh"
#include "logits/row_tokens.cuh"
#include "native/logits/logits.h"

namespace grpo::cuda {

__host__ __device__ inline float log2_scale(float scale) { return static_cast<float>(scale * 1.4426950408889634); }

template <class T>
struct LogitRows {
  const T* data;  // [R,V]
  int64_t stride, R;
  int64_t V;      // columns that are looked at
  int64_t width;  // all columns: those from V on are padding, and get gradient 0
  Temperature temperature;
  float scale;   // scale_of_row; of a row of_row(r)
  float scale2;  // scale * log2(e)
  bool part;     // columns vocab_start.. of a vocabulary, not the whole of it
  int64_t vocab_start;
  InverseCap inverse_cap;

  __device__ __forceinline__ const T* row(int64_t r) const { return data + r * stride; }
  // With the row's own temperature.
  __device__ __forceinline__ LogitRows of_row(int64_t r) const {
    LogitRows own = *this;
    if (temperature.of_row != nullptr) own.scale = scale_of_row(temperature, r), own.scale2 = log2_scale(own.scale);
    return own;
  }
  // What the derivative by what the softmax works on is multiplied by, but for the slope of a soft-cap.
  __device__ __forceinline__ double slope() const { return inverse_cap.high == 0 ? scale : scale / temperature.softcap; }
};

// x with the soft-cap on it, if there is one.
__device__ __forceinline__ float softcapped_if(float x, const InverseCap& inverse_cap) {
  return inverse_cap.high == 0 ? x : softcapped(x, inverse_cap);
}

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
__host__ __device__ __forceinline__ bool aligned16(const T* x) {
  return reinterpret_cast<uintptr_t>(x) % 16 == 0;
}

// Elements before the first address that is a multiple of 16, at most n.
template <class T>
__device__ __forceinline__ int64_t elements_to_boundary(const T* x, int64_t n) {
  const int64_t head = (16 - reinterpret_cast<uintptr_t>(x) % 16) % 16 / sizeof(T);
  return head < n ? head : n;
}

// 16 bytes of the 32 of `low` and `high`, from the given one on.
__device__ __forceinline__ Words4 shifted(const Words4& low, const Words4& high, int byte) {
  uint32_t w[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
  for (int by = 2; by > 0; --by)
#pragma unroll
    for (int i = 0; i + by < 8; ++i) w[i] = (byte / 4 & by) != 0 ? w[i + by] : w[i];
  const auto word = [&](int i) { return static_cast<uint32_t>((uint64_t{w[i + 1]} << 32 | w[i]) >> byte % 4 * 8); };
  return {word(0), word(1), word(2), word(3)};
}

// x[n] as groups of 16 bytes and a few elements after them. A group is the same elements wherever the row begins, so
// that sums have the same bits at any address. Where it is not aligned it is cut out of the two aligned groups that it
// lies in, but for the first and the last one, whose aligned ones may reach beyond the tensor: 2 loads for
// 8 elements of 16 bits, which element by element are 8 loads that touch all sectors of a warp each.
template <class T>
struct Slice {
  const T* x;            // [n]
  const Words4* copied;  // [groups] in shared memory, null where x is read itself
  int32_t n, groups;
  bool aligned;  // x is
  InverseCap inverse_cap;

  __device__ __forceinline__ int32_t tail() const { return groups * kLanes<T>; }

  // Elements i to i + kLanes of x, and no byte beside them.
  __device__ __forceinline__ Words4 words_of_x(int64_t i) const {
    const T* from = x + i;
    if (aligned16(from)) return *reinterpret_cast<const Words4*>(from);
    if constexpr (sizeof(T) == 4) {
      return {__builtin_bit_cast(uint32_t, from[0]), __builtin_bit_cast(uint32_t, from[1]),
              __builtin_bit_cast(uint32_t, from[2]), __builtin_bit_cast(uint32_t, from[3])};
    } else {
      const auto two = [&](int i) { return uint32_t{from[i + 1].bits} << 16 | from[i].bits; };
      return {two(0), two(2), two(4), two(6)};
    }
  }
  // Nobody may be writing the groups beside it.
  __device__ __forceinline__ Words4 group_of_x(int64_t g) const {
    if (aligned) return reinterpret_cast<const Words4*>(x)[g];
    if (g == 0 || g + 1 == groups) return words_of_x(g * kLanes<T>);
    const int before = static_cast<int>(reinterpret_cast<uintptr_t>(x) % 16);
    const Words4* around = reinterpret_cast<const Words4*>(x - before / sizeof(T)) + g;
    return shifted(around[0], around[1], before);
  }
  __device__ __forceinline__ Words4 group(int64_t g) const { return copied != nullptr ? copied[g] : group_of_x(g); }

  // Elements i to i + kLanes, all of them before tail(); of x itself where it may be written at the same time.
  __device__ __forceinline__ Words4 words(int32_t i) const {
    if (copied == nullptr) return words_of_x(i);
    const int32_t g = i / kLanes<T>;
    if (i % kLanes<T> == 0) return copied[g];
    return shifted(copied[g], copied[g + 1], i % kLanes<T> * static_cast<int>(sizeof(T)));
  }

  // What the softmax works on.
  __device__ __forceinline__ float at(int64_t i) const { return softcapped_if(to_float(x[i]), inverse_cap); }
  __device__ __forceinline__ void unpack_group(const Words4& words, float (&values)[kLanes<T>]) const {
    unpack<T>(words, values);
    if (inverse_cap.high == 0) return;
#pragma unroll
    for (int i = 0; i < kLanes<T>; ++i) values[i] = softcapped(values[i], inverse_cap);
  }
};

template <class T>
__device__ __forceinline__ Slice<T> slice_of(const T* x, int64_t n, const InverseCap& inverse_cap) {
  return {x, nullptr, static_cast<int32_t>(n), static_cast<int32_t>(n / kLanes<T>), aligned16(x), inverse_cap};
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

// The padding of row r has no gradient.
template <class T, class G>
__device__ __forceinline__ void fill_padding(const LogitRows<T>& logits, const GradRows<G>& gradient, int64_t r) {
  if (logits.width > logits.V) fill(gradient.data + r * gradient.stride + logits.V, logits.width - logits.V, 0);
}

}  // namespace grpo::cuda
