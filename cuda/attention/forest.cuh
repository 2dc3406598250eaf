// Who sees whom in shared-prefix attention.
//
// A token t sees the key j of segment b if j <= t < segment_start[segment_end[b]]: one rule for ancestors (always
// before t) and for the own segment. So a tile of keys needs one segment, while a tile of queries may hold several.
#pragma once

#include <cstdint>

namespace grpo::cuda {

constexpr int kTileTokens = 64;  // queries of a tile, keys of a tile

// The forest that the tokens are packed by. Contents are the caller's until the work list has been made from them.
struct Forest {
  const int32_t* start;   // [B+1]
  const int32_t* parent;  // [B]    -1: a root
  const int32_t* end;     // [B]    first segment after the subtree
  int64_t B, P;
};

struct TokenTile {
  int32_t segment;  // of the first token
  int32_t begin, end;
  int32_t cost;  // pairs of tiles
};

// ---- the device's side ----------------------------------------------------------------------------------------------

// The tile of keys [key, key + keys); queries from token_end on do not see it, and query t sees keys up to t.
struct KeyTile {
  int32_t key, keys, token_end;
};

// All keys that queries of the tile see, from its last segment back to its first, then up to the root: each query meets
// its own path from leaf to root, whatever else is in the tile.
class KeyWalk {
 public:
  __device__ __forceinline__ void begin(const Forest& forest, const TokenTile& tile) {
    first_ = segment_ = tile.segment;
    end_ = tile.end;
    while (segment_ + 1 < forest.B && forest.start[segment_ + 1] < end_) ++segment_;
    enter(forest);
  }
  __device__ __forceinline__ bool next(const Forest& forest, KeyTile& keys) {
    while (key_ >= key_end_) {
      if (segment_ >= 0) segment_ = segment_ > first_ ? segment_ - 1 : forest.parent[segment_];
      if (segment_ < 0) return false;
      enter(forest);
    }
    keys = {key_, key_end_ - key_ < kTileTokens ? key_end_ - key_ : kTileTokens, token_end_};
    key_ += kTileTokens;
    return true;
  }

 private:
  __device__ __forceinline__ void enter(const Forest& forest) {
    const int32_t subtree = forest.start[forest.end[segment_]], stop = forest.start[segment_ + 1];
    key_ = forest.start[segment_];
    token_end_ = end_ < subtree ? end_ : subtree;
    key_end_ = token_end_ < stop ? token_end_ : stop;
  }
  int32_t first_, end_;  // segment of the tile's first token, and its last token
  int32_t segment_, key_, key_end_, token_end_;
};

template <class F>
__device__ __forceinline__ void for_each_key_tile(const Forest& forest, const TokenTile& tile, F&& f) {
  KeyWalk walk;
  walk.begin(forest, tile);
  for (KeyTile keys{}; walk.next(forest, keys);) f(keys);
}

// How many of the tile's keys query t sees: the first ones.
__device__ __forceinline__ int visible_keys(const KeyTile& keys, int32_t t) {
  if (t >= keys.token_end || t < keys.key) return 0;
  return t - keys.key + 1 < keys.keys ? t - keys.key + 1 : keys.keys;
}

}  // namespace grpo::cuda
