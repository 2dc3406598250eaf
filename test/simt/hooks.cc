// The functions that code compiled with -fsanitize=thread calls at each load and store. They are ours: libtsan is not
// linked. They do nothing outside fibres, so host code in a .cu may be instrumented too. Hidden symbols, so that two
// libraries in one process have each its own.
#include "memory.hpp"

namespace simt {

namespace {

[[noreturn]] void misaligned(const void* address, size_t bytes, const void* where) {
  Thread* thread = current;
  fault("misaligned", SIMT_TEXT("%s: an access of %zu bytes at %p, at %s", who(thread).c_str(), bytes, address,
                                place(where).c_str()));
}

inline __attribute__((always_inline)) void hook(const void* address, size_t bytes, Access kind, const void* where) {
  Thread* thread = hooked;
  if (__builtin_expect(thread == nullptr, 1)) return;
  if (__builtin_expect(overtime, 0) != 0) no_end(where);
  if (on_own_stack(thread, address)) return;
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) misaligned(address, bytes, where);
  access(thread, address, bytes, kind, where);
}
inline void hook_range(const void* address, size_t bytes, Access kind, const void* where) {
  Thread* thread = hooked;
  if (thread != nullptr && bytes > 0) access(thread, address, bytes, kind, where);
}

}  // namespace

}  // namespace simt

// ---- what the compiler calls ----------------------------------------------------------------------------------------

#define HOOK extern "C" __attribute__((visibility("hidden"), noinline))
#define HOOKS(size)                                                                                       \
  HOOK void __tsan_read##size(void* at) { simt::hook(at, size, simt::Access::kRead, SIMT_CALLER); }       \
  HOOK void __tsan_write##size(void* at) { simt::hook(at, size, simt::Access::kWrite, SIMT_CALLER); }     \
  HOOK void __tsan_volatile_read##size(void* at) { simt::hook(at, size, simt::Access::kRead, SIMT_CALLER); }   \
  HOOK void __tsan_volatile_write##size(void* at) { simt::hook(at, size, simt::Access::kWrite, SIMT_CALLER); } \
  HOOK void __tsan_unaligned_read##size(void* at) {                                                       \
    simt::hook_range(at, size, simt::Access::kRead, SIMT_CALLER);                                         \
  }                                                                                                       \
  HOOK void __tsan_unaligned_write##size(void* at) {                                                      \
    simt::hook_range(at, size, simt::Access::kWrite, SIMT_CALLER);                                        \
  }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

HOOK void __tsan_read_range(void* at, size_t bytes) {
  simt::hook_range(at, bytes, simt::Access::kRead, SIMT_CALLER);
}
HOOK void __tsan_write_range(void* at, size_t bytes) {
  simt::hook_range(at, bytes, simt::Access::kWrite, SIMT_CALLER);
}
HOOK void __tsan_init() {}
HOOK void __tsan_func_entry(void*) {}
HOOK void __tsan_func_exit() {}
HOOK void __tsan_vptr_update(void**, void*) {}
HOOK void __tsan_vptr_read(void**) {}

// Atomics of host code (reference counts, guards of local statics). The memory orders are run-time values here; the
// strongest serves for all.
#define ATOMIC_FETCH(bits, T, name, builtin)                        \
  HOOK T __tsan_atomic##bits##_fetch_##name(volatile T* at, T value, int) { \
    return builtin(at, value, __ATOMIC_SEQ_CST);                      \
  }
#define ATOMICS(bits, T)                                                                                          \
  HOOK T __tsan_atomic##bits##_load(const volatile T* at, int) { return __atomic_load_n(at, __ATOMIC_SEQ_CST); }  \
  HOOK void __tsan_atomic##bits##_store(volatile T* at, T value, int) {                                           \
    __atomic_store_n(at, value, __ATOMIC_SEQ_CST);                                                                \
  }                                                                                                               \
  HOOK T __tsan_atomic##bits##_exchange(volatile T* at, T value, int) {                                           \
    return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST);                                                      \
  }                                                                                                               \
  ATOMIC_FETCH(bits, T, add, __atomic_fetch_add)                                                                  \
  ATOMIC_FETCH(bits, T, sub, __atomic_fetch_sub)                                                                  \
  ATOMIC_FETCH(bits, T, and, __atomic_fetch_and)                                                                  \
  ATOMIC_FETCH(bits, T, or, __atomic_fetch_or)                                                                    \
  ATOMIC_FETCH(bits, T, xor, __atomic_fetch_xor)                                                                  \
  HOOK int __tsan_atomic##bits##_compare_exchange_strong(volatile T* at, T* expected, T value, int, int) {        \
    return __atomic_compare_exchange_n(at, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);           \
  }                                                                                                               \
  HOOK int __tsan_atomic##bits##_compare_exchange_weak(volatile T* at, T* expected, T value, int, int) {          \
    return __atomic_compare_exchange_n(at, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);           \
  }                                                                                                               \
  HOOK T __tsan_atomic##bits##_compare_exchange_val(volatile T* at, T expected, T value, int, int) {              \
    __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                 \
    return expected;                                                                                              \
  }
ATOMICS(8, uint8_t)
ATOMICS(16, uint16_t)
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)
HOOK void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
HOOK void __tsan_atomic_signal_fence(int) {}

// ---- -fsanitize=alignment,shift,float-cast-overflow,integer-divide-by-zero,bounds: what x86 does otherwise than a GPU,
// ---- and arrays of known size, in registers or within a struct, which no access to memory shows ---------------------

namespace {

void undefined(const char* what, const void* where) {
  if (simt::hooked != nullptr)
    simt::fault(what, SIMT_TEXT("%s, at %s", simt::who(simt::current).c_str(), simt::place(where).c_str()));
}

}  // namespace

HOOK void __ubsan_handle_shift_out_of_bounds(void*, void*, void*) {
  undefined("shift by the width or more", SIMT_CALLER);
}
HOOK void __ubsan_handle_out_of_bounds(void*, void*) { undefined("array out of bounds", SIMT_CALLER); }
HOOK void __ubsan_handle_divrem_overflow(void*, void*, void*) { undefined("division by zero", SIMT_CALLER); }
HOOK void __ubsan_handle_float_cast_overflow(void*, void*) { undefined("conversion that overflows", SIMT_CALLER); }
HOOK void __ubsan_handle_type_mismatch_v1(void*, void*) { undefined("misaligned", SIMT_CALLER); }
