// The memory of a call, laid out in one place: what is planned and what is allocated cannot differ.
#pragma once

#include <cmath>
#include <cstdint>
#include <new>

#include "parallel/parallel.h"

namespace grpo {

// Takes arrays one after the other from `memory`, or with null only learns how many bytes they take: a double, since a
// plan may be asked for sizes of which there is no memory. It is exact below 2^59, a multiple of 64.
class Arena {
 public:
  explicit Arena(char* memory) : memory_(memory) {}
  template <class Type>
  void take(Type*& array, int64_t count) {
    array = memory_ == nullptr ? nullptr : reinterpret_cast<Type*>(memory_ + static_cast<int64_t>(bytes_));
    bytes_ += std::ceil(static_cast<double>(count) * sizeof(Type) / 64) * 64;
  }
  double bytes() const { return bytes_; }

 private:
  char* memory_;
  double bytes_ = 0;
};

// The arrays of a Memory, which lay_out(shape, arena, memory) takes from an arena.
template <class Shape, class Memory>
double bytes_of(const Shape& shape, Memory memory = {}) {
  Arena arena(nullptr);
  lay_out(shape, arena, memory);
  return arena.bytes();
}

template <class Shape, class Memory>
class Laid {
 public:
  explicit Laid(const Shape& shape) : scratch_(addressable(bytes_of<Shape, Memory>(shape))) {
    Arena arena(scratch_.data());
    lay_out(shape, arena, memory_);
  }
  const Memory& operator*() const { return memory_; }
  const Memory* operator->() const { return &memory_; }

 private:
  static int64_t addressable(double bytes) {
    if (bytes >= 0x1p62) throw std::bad_alloc();
    return static_cast<int64_t>(bytes);
  }

  Scratch<char> scratch_;
  Memory memory_{};
};

}  // namespace grpo
