// A stable sort of 32-bit keys: 24 bytes per key and digit of 8 bits, see radix_sort.cu.
#pragma once

#include <cstdint>

#include "launch/launch.cuh"

namespace grpo::cuda {

struct Sorted {
  uint32_t *keys, *values;  // [N]
};

// Overwrites keys. Values are the places that the keys had; null where they are not wanted.
Sorted radix_sort(uint32_t* keys,  // [N]
                  int64_t N, bool places, Launch& on);

}  // namespace grpo::cuda
