// What the device language of cuda.hpp calls; kernels do not call these themselves.
#pragma once

#include <cstddef>
#include <cstdint>

namespace simt {

__attribute__((const)) uint32_t thread_index();
__attribute__((const)) uint32_t block_index();
__attribute__((const)) uint32_t block_threads();
__attribute__((const)) uint32_t grid_blocks();
__attribute__((const)) void* shared_memory(size_t bytes, size_t alignment);

__attribute__((noinline)) void yield();
[[noreturn]] __attribute__((noinline)) void trap();
void warp_barrier(uint32_t mask, const void* where);
// kind: of ShuffleKind. A source outside the segment of `width` lanes gives the own value.
uint64_t shuffle(const char* name, uint32_t mask, uint64_t bits, int kind, int by, int width, const void* where);
uint32_t vote(const char* name, uint32_t mask, bool predicate, const void* where);
uint32_t match_any(uint32_t mask, uint64_t bits, const void* where);
uint32_t reduce(const char* name, uint32_t mask, uint32_t value, int kind, const void* where);
void on_atomic(void* address, size_t bytes, const void* where);

enum ShuffleKind { kIndex, kUp, kDown, kXor };
enum ReduceKind { kAdd, kMinSigned, kMaxSigned, kMinUnsigned, kMaxUnsigned, kAnd, kOr, kXorAll };

}  // namespace simt
