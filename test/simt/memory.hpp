// Allocations of device memory, and what happens at each access of a kernel.
#pragma once

#include "engine.hpp"

namespace simt {

struct Allocation;  // shadow.hpp

enum class Access : uint8_t { kRead, kWrite, kAtomic };

Allocation* allocation_at(const char* address);  // or null

// Bounds, then the shadow. Any address: shared, global, a stack, the image.
void access(Thread* thread, const void* address, size_t bytes, Access kind, const void* where);
// For instructions that take an address of global memory only.
void must_be_global(const void* address, const char* what, const void* where);
void must_be_shared(Thread* thread, const void* address, size_t bytes, Access kind, const void* where);

}  // namespace simt
