// Shared-prefix attention: the kernels' interface, and the tiles that forward and backward have in common.
//
// A token sees all tokens of its ancestor segments and its own segment up to itself. Work is cut into query tiles
// (consecutive tokens of one tree, times the query heads that share a key head) and key tiles (consecutive tokens of
// one segment). Because segments stand in depth-first order, the queries of a tile that see a key tile are always
// neighbours, so one product serves them all, however many small segments they belong to.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "parallel/parallel.h"
#include "vector/vector.h"

namespace grpo {

// The forest that the tokens are packed by; from tree_layout.
struct Segments {
  const int32_t* start;   // [B+1]
  const int32_t* parent;  // [B]    -1: a root
  const int32_t* end;     // [B]    first segment after the subtree
  int64_t B;
};

struct AttentionSizes {
  int64_t P, H, K, D, E;  // H is a multiple of K
  Float type;             // of q, k, v, out and grad_out
  float scale;
};

void prefix_attention(const void* q,     // [P,H,D]
                      const void* k,     // [P,K,D]
                      const void* v,     // [P,K,E]
                      const Segments& segments,
                      void* out,         // [P,H,E], may be null
                      float* logsumexp,  // [P,H], may be null
                      const AttentionSizes& sizes);

// A gradient has its own type, so that half-precision inputs may have float32 gradients.
struct Gradient {
  void* data;  // may be null
  Float type;
};

void prefix_attention_backward(const void* grad_out,     // [P,H,E]
                               const void* q,            // [P,H,D]
                               const void* k,            // [P,K,D]
                               const void* v,            // [P,K,E]
                               const void* out,          // [P,H,E]
                               const float* logsumexp,   // [P,H]
                               const Segments& segments,
                               Gradient grad_q,          // [P,H,D]
                               Gradient grad_k,          // [P,K,D]
                               Gradient grad_v,          // [P,K,E]
                               const AttentionSizes& sizes);

// ---- tiles ----------------------------------------------------------------------------------------------------------

constexpr int64_t kTileRows = 128;  // (token, head) pairs of a query tile: a multiple of every register tile
constexpr int64_t kTileKeys = 64;   // tokens of a key tile

// Query heads that share a key head, in blocks of at most kTileRows. A tile has tokens * heads rows, token by token.
struct HeadBlocks {
  int64_t group;   // H / K
  int64_t size;    // heads of a block; the last one may have fewer
  int64_t count;   // blocks of a key head
  int64_t tokens;  // of a query tile

  explicit HeadBlocks(const AttentionSizes& sizes)
      : group(sizes.H / sizes.K),
        size(std::min(group, kTileRows)),
        count((group + size - 1) / size),
        tokens(kTileRows / size) {}
  int64_t head(int64_t key_head, int64_t block) const { return key_head * group + block * size; }
  int64_t heads(int64_t block) const { return std::min(size, group - block * size); }
};

struct TokenTile {
  int32_t segment;  // of the first token
  int32_t begin, end;
};

// Calls f(tile) for consecutive tiles of the tokens of segments [first, last), where `first` is a root. Long segments
// begin a tile of their own and short ones are packed together. A tile lies in one tree, so that the sums over the
// queries of a tree do not depend on its neighbours.
template <class F>
void for_each_query_tile(const Segments& segments, int64_t first, int64_t last, int64_t tokens, F&& f) {
  TokenTile tile{0, 0, 0};
  const auto flush = [&] {
    if (tile.end > tile.begin) f(tile);
    tile.begin = tile.end;
  };
  for (int64_t b = first; b < last; ++b) {
    const int64_t length = segments.start[b + 1] - segments.start[b];
    if (segments.parent[b] < 0 || tile.end - tile.begin + length > tokens) flush();
    for (int32_t at = segments.start[b]; at < segments.start[b + 1]; at = tile.end) {
      if (tile.begin == tile.end) tile = {static_cast<int32_t>(b), at, at};
      const int64_t room = tokens - (tile.end - tile.begin);
      tile.end = static_cast<int32_t>(std::min<int64_t>(segments.start[b + 1], at + room));
      if (tile.end - tile.begin == tokens) flush();
    }
  }
  flush();
}

// The part of a query tile that sees the key tile of tokens [key, key + keys): tokens [token, token_end).
struct TilePair {
  int32_t key, keys;
  int32_t token, token_end;
  bool masked;  // some of them see only a part: the first token - key + 1 keys
};

// Key tiles of `segment` from token `begin` to `end`, with their queries in the tile.
template <class F>
void for_each_pair(const Segments& segments, int64_t segment, int32_t begin, int32_t end, const TokenTile& tile,
                   F&& f) {
  const int64_t stop = segments.start[segment + 1];
  const int64_t token_end = std::min(tile.end, segments.start[segments.end[segment]]);
  for (int64_t key = begin; key < std::min<int64_t>(end, token_end); key += kTileKeys) {
    const int64_t token = std::max<int64_t>(tile.begin, key);
    if (token >= token_end) break;
    // Keys after the last query are hidden from all of them.
    const int64_t key_end = std::min({key + kTileKeys, stop, token_end});
    f(TilePair{static_cast<int32_t>(key), static_cast<int32_t>(key_end - key), static_cast<int32_t>(token),
               static_cast<int32_t>(token_end), token < key_end - 1});
  }
}

// All key tiles that the tile's queries see: from its last segment back to its first, then up to the root. Each query
// meets its own path in the order leaf to root, whatever else is in the tile, so its sums depend on its path alone.
template <class F>
void for_each_pair(const Segments& segments, const TokenTile& tile, F&& f) {
  const auto keys_of = [&](int64_t b) {
    for_each_pair(segments, b, segments.start[b], segments.start[b + 1], tile, f);
  };
  int64_t b = tile.segment;
  while (b + 1 < segments.B && segments.start[b + 1] < tile.end) ++b;
  for (; b > tile.segment; --b) keys_of(b);
  for (; b >= 0; b = segments.parent[b]) keys_of(b);
}

// How many keys of the pair each row sees; null where all see all.
inline const int32_t* visible_keys(const TilePair& pair, int64_t heads, int32_t* visible) {
  if (!pair.masked) return nullptr;
  int32_t* row = visible;
  for (int32_t token = pair.token; token < pair.token_end; ++token)
    row = std::fill_n(row, heads, std::min(pair.keys, token - pair.key + 1));
  return visible;
}

// ---- rows of floats -------------------------------------------------------------------------------------------------

inline void convert(const void* x, Float x_type, void* y, Float y_type, int64_t n) {
  if (n == 0) return;  // and x may be null
  if (x_type == y_type) std::memcpy(y, x, n * size_of(x_type));
  else vector_kernels().convert(x, x_type, y, y_type, n);
}

// `blocks` blocks of n elements each, `stride` elements apart in x, one after the other in y.
inline void gather(const void* x, Float type, int64_t first, int64_t stride, int64_t blocks, int64_t n, float* y) {
  const char* from = static_cast<const char*>(x) + first * size_of(type);
  if (stride == n) return convert(from, type, y, Float::kF32, blocks * n);
  for (int64_t i = 0; i < blocks; ++i) convert(from + i * stride * size_of(type), type, y + i * n, Float::kF32, n);
}

inline void scatter(const float* x, void* y, Float type, int64_t first, int64_t stride, int64_t blocks, int64_t n) {
  char* to = static_cast<char*>(y) + first * size_of(type);
  for (int64_t i = 0; i < blocks; ++i) convert(x + i * n, Float::kF32, to + i * stride * size_of(type), type, n);
}

// y[j, i] = factor * x[i, j]; the rows of y are kTileRows apart.
inline void transpose(const float* x, int64_t rows, int64_t columns, float factor, float* y) {
  constexpr int64_t kBlock = 16;
  for (int64_t i = 0; i < rows; i += kBlock)
    for (int64_t j = 0; j < columns; ++j)
      for (int64_t r = i; r < std::min(i + kBlock, rows); ++r) y[j * kTileRows + r] = factor * x[r * columns + j];
}

inline bool all_finite(const float* x, int64_t n) {
  int32_t most = 0;
  for (int64_t i = 0; i < n; ++i) most = std::max(most, std::bit_cast<int32_t>(x[i]) & 0x7fffffff);
  return most < 0x7f800000;
}

// ---- work -----------------------------------------------------------------------------------------------------------

// The tiles that each(f) calls f with.
class TileList {
 public:
  template <class Each>
  explicit TileList(Each&& each) : count(count_of(each)), tiles_(count) {
    TokenTile* next = tiles_.data();
    each([&](const TokenTile& tile) { *next++ = tile; });
  }

  const int64_t count;
  const TokenTile* begin() { return tiles_.data(); }
  const TokenTile* end() { return begin() + count; }
  const TokenTile& operator[](int64_t i) { return tiles_[i]; }

 private:
  template <class Each>
  static int64_t count_of(Each& each) {
    int64_t n = 0;
    each([&](const TokenTile&) { ++n; });
    return n;
  }

  Scratch<TokenTile> tiles_;
};

// Cuts a worker's slice of scratch into arrays; with null it only counts the floats.
struct Carver {
  float* base;
  int64_t used = 0;

  float* take(int64_t n) {
    float* slice = base == nullptr ? nullptr : base + used;
    used += (n + 15) / 16 * 16;
    return slice;
  }
};

// Calls task(i, workspace) for i < count on all threads, with a workspace for each thread. Workspace::cut(carver,
// sizes...) takes its arrays from a carver.
template <class Workspace, class F, class... Sizes>
void for_each_task(int64_t count, F&& task, const Sizes&... sizes) {
  Carver counter{nullptr};
  Workspace::cut(counter, sizes...);
  Scratch<float> scratch(counter.used * thread_count());
  parallel_for(count, 1, [&](int64_t begin, int64_t end, int worker) {
    Carver carver{scratch.data() + worker * counter.used};
    const Workspace work = Workspace::cut(carver, sizes...);
    for (int64_t i = begin; i < end; ++i) task(i, work);
  });
}

}  // namespace grpo
