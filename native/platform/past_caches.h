// Large outputs, written past the caches. A line that is written into a cache is first read from memory, and another one
// has to leave: of arrays that fit no cache that is half of the traffic of a kernel that only writes them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace grpo {

// Whether it pays for an output of so many bytes, in a call whose arrays have `all` bytes together. Not for new memory,
// whose pages are zeroed, into the cache, as they are first touched.
bool past_caches_pay(const void* y, int64_t bytes, int64_t all);

// Calls make(begin, end, to) for pieces of an array `y` of n elements of `size` bytes, in order: it writes elements
// [begin, end) to `to`, which lies in the cache, from where they go to `y`.
template <class Make>
void write_past_caches(void* y, int64_t n, int64_t size, Make&& make) {
#if defined(__x86_64__)
  constexpr int64_t kPiece = 4096, kLine = 64;
  alignas(kLine) char piece[kPiece];
  char* to = static_cast<char*>(y);
  // The first piece ends where a line does.
  int64_t end = std::min(n, (kPiece - static_cast<int64_t>(reinterpret_cast<uintptr_t>(to) % kLine)) / size);
  for (int64_t begin = 0; begin < n; begin = end, end = std::min(n, begin + kPiece / size)) {
    char* at = to + begin * size;
    const int64_t bytes = (end - begin) * size;
    make(begin, end, static_cast<void*>(piece));
    // The first piece, unless it begins a line, and the last, unless it ends one.
    if (reinterpret_cast<uintptr_t>(at) % kLine != 0 || bytes % kLine != 0) {
      std::memcpy(at, piece, bytes);
      continue;
    }
    for (int64_t i = 0; i < bytes; i += 16)
      _mm_stream_si128(reinterpret_cast<__m128i*>(at + i), _mm_load_si128(reinterpret_cast<__m128i*>(piece + i)));
  }
  _mm_sfence();  // before another thread may read them
#else
  make(0, n, y);
#endif
}

}  // namespace grpo
