// The memory of a call, laid out in one place: what is planned and what is allocated cannot differ.
#pragma once

#include <cstdint>
#include <new>

#include "parallel/parallel.h"

namespace grpo {

// Takes arrays one after the other from `memory`, or with null only learns how many bytes they take.
class Arena {
 public:
  explicit Arena(char* memory) : memory_(memory) {}
  template <class Type>
  void take(Type*& array, int64_t count) {
    array = memory_ == nullptr ? nullptr : reinterpret_cast<Type*>(memory_ + bytes_);
    int64_t bytes;
    if (__builtin_mul_overflow(count, int64_t{sizeof(Type)}, &bytes) ||
        __builtin_add_overflow(bytes_, (bytes + 63) / 64 * 64, &bytes_))
      throw std::bad_alloc();
  }
  int64_t bytes() const { return bytes_; }

 private:
  char* memory_;
  int64_t bytes_ = 0;
};

// The arrays of a Memory, which lay_out(shape, arena, memory) takes from an arena.
template <class Shape, class Memory>
int64_t bytes_of(const Shape& shape, Memory memory = {}) {
  Arena arena(nullptr);
  lay_out(shape, arena, memory);
  return arena.bytes();
}

template <class Shape, class Memory>
class Laid {
 public:
  explicit Laid(const Shape& shape) : scratch_(bytes_of<Shape, Memory>(shape)) {
    Arena arena(scratch_.data());
    lay_out(shape, arena, memory_);
  }
  const Memory& operator*() const { return memory_; }
  const Memory* operator->() const { return &memory_; }

 private:
  Scratch<char> scratch_;
  Memory memory_{};
};

}  // namespace grpo
