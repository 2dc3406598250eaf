// The factors of the matrix products as f16, so that each product takes one term: q, k, v and gradOut, copied once in a
// call, each times a power of two. The 8 digits of bf16 are exact in the 11 of f16, and its range down to 2^-31 of the
// largest number that shares a power:
//
//   q, gradOut   a power for each row: it goes into what the kernels have for each row anyway
//   k, v         a power for the 64 keys of a tile. A row whose largest number is below 2^-28 of the tile's would lose
//                digits: such a tile is marked, and who sees it is done without matrix instructions
//
// So powers, and with them bits, depend on nothing outside a tree. Rows of a copy follow each other by head, padded
// with zeros to a width that the kernels know: a tile is one range of memory, whatever the strides of the call.
#pragma once

#include "attention/attention.cuh"
#include "attention/schedule.cuh"

namespace grpo::cuda {

// In place of a power: of a marked tile, and of a tile or row in which there are zeros alone (or what is not finite).
constexpr int32_t kMarked = 1 << 20, kZeros = 1 << 21;

struct Factor {
  f16* data;       // [heads, P, width]
  int32_t* power;  // [heads, P]: of the row
};

struct Copied {
  Heads from;
  Float type;
  int64_t heads, columns, width;
  bool by_row, negative;
  Factor to;
};

// A place for the copy of [P, heads, columns].
Copied copy_of(const Heads& from, Float type, int64_t P, int64_t heads, int64_t columns, int64_t width, bool by_row,
               Launch& on);

// Makes up to four copies.
void make_copies(const Copied* copies, int count, int64_t P, const WorkList& key_tiles, Launch& on);

}  // namespace grpo::cuda
