// Fibres: one stack and one saved stack pointer per simulated CUDA thread, and the switch between them.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__)
#error "the interpreter's fibre switch is written for x86-64 only"
#endif

namespace simt {

constexpr size_t kStackBytes = 64 * 1024;
constexpr uint32_t kMostFibres = 8 * 1024;  // a cluster of 8 blocks of 1024 threads

// Saves the running fibre's registers on its stack and its stack pointer in *save, then continues the one whose stack
// pointer is `next`.
extern "C" __attribute__((visibility("hidden"))) void simt_switch(void** save, void* next);

// The stack pointer of a fibre that starts with entry(), which never returns, on stack number `index`.
void* new_fibre(uint32_t index, void (*entry)());

const char* stack_of(uint32_t index);

// Whether the address lies in any fibre's stack.
extern char* stacks_begin;
extern char* stacks_end;
inline bool on_stack(const void* address) {
  const char* at = static_cast<const char*>(address);
  return at >= stacks_begin && at < stacks_end;
}

}  // namespace simt
