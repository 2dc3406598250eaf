// What rounding lost of an output, as the backward pass gets it back.
#pragma once

#include "vector/vector.h"

namespace grpo {

// The first element of `low` that rounding cannot have lost of `out` at the same place, -1 without one: what is lost is
// at most half a unit in the last place. Where `out` is not finite anything is right.
int64_t first_foreign_low(const void* out,  // [n]
                          const void* low,  // [n]
                          Float type,       // of both, of 16 bits
                          int64_t n);

}  // namespace grpo
