// Stacks (one reservation, made usable 32 at a time, a guard page under each) and the switch.
#include "fibre.hpp"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

// Only the registers that a call preserves: 8 ns, against 180 for swapcontext, which also saves the signal mask.
asm(R"(
.text
.hidden simt_switch
.globl simt_switch
.type simt_switch, @function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch, .-simt_switch
)");

namespace simt {

char* stacks_begin = nullptr;
char* stacks_end = nullptr;

namespace {

constexpr size_t kGuard = 4096, kStride = kStackBytes + kGuard;
constexpr uint32_t kPiece = 32;
bool usable[kMostFibres / kPiece];

void make_usable(uint32_t piece) {
  if (stacks_begin == nullptr) {
    void* memory = mmap(nullptr, kMostFibres * kStride, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      fputs("simt: no address space for stacks\n", stderr);
      abort();
    }
    stacks_begin = static_cast<char*>(memory);
    stacks_end = stacks_begin + kMostFibres * kStride;
  }
  for (uint32_t i = piece * kPiece; i < (piece + 1) * kPiece; ++i)
    if (mprotect(stacks_begin + i * kStride + kGuard, kStackBytes, PROT_READ | PROT_WRITE) != 0) {
      fputs("simt: no memory for stacks\n", stderr);
      abort();
    }
  usable[piece] = true;
}

}  // namespace

const char* stack_of(uint32_t index) { return stacks_begin + index * kStride + kGuard; }

void* new_fibre(uint32_t index, void (*entry)()) {
  if (!usable[index / kPiece]) make_usable(index / kPiece);
  // Tops are coloured: else the same local variable of all fibres falls into one cache set.
  char* top = stacks_begin + (index + 1) * kStride - 64 - (index % 61) * 64;
  void** sp = reinterpret_cast<void**>(top);
  *--sp = nullptr;  // a return address that no one uses; also the alignment that a function expects at its entry
  *--sp = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--sp = nullptr;
  return sp;
}

}  // namespace simt
