// Rows of numbers in memory, a stride apart.
#pragma once

#include <cstdint>

namespace grpo::cuda {

// Rows of an array: `data` points at the first element of the first row.
template <class T>
struct Rows {
  const T* data;
  int64_t stride;
  int32_t count;
};

// Those of one head, from a token on, of [tokens, heads, n].
template <class T>
__device__ __forceinline__ Rows<T> rows_of(const void* x, int64_t token, int64_t heads, int64_t head, int64_t n,
                                           int32_t count) {
  return {static_cast<const T*>(x) + (token * heads + head) * n, heads * n, count};
}

}  // namespace grpo::cuda
