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

}  // namespace grpo::cuda
