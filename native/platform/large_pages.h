// Large pages for large memory. A page is zeroed when it is first written, and half of the time of a kernel that fills
// new memory goes there: in pages of 4 KiB it takes four to ten times as long as in pages of 2 MiB.
#pragma once

#include <cstdint>

namespace grpo {

// Asks for large pages in memory that nobody has written yet; without effect where it is small or the system has none.
void prefer_large_pages(void* data, int64_t bytes);

}  // namespace grpo
