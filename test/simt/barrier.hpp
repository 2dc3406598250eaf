// The block's barrier, under the names that cuda.hpp gives to kernels.
#pragma once

#include <cstdint>

namespace simt {

__attribute__((noinline)) void block_barrier();
__attribute__((noinline)) int block_barrier_or(int predicate);
__attribute__((noinline)) int block_barrier_and(int predicate);
__attribute__((noinline)) int block_barrier_count(int predicate);

}  // namespace simt
