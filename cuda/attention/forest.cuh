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
  __device__ __forceinline__ KeyWalk(const Forest& forest, const TokenTile& tile) : forest_(forest), tile_(tile) {
    segment_ = tile.segment;
    while (segment_ + 1 < forest.B && forest.start[segment_ + 1] < tile.end) ++segment_;
    enter();
  }
  __device__ __forceinline__ bool next(KeyTile& keys) {
    while (key_ >= key_end_) {
      segment_ = segment_ > tile_.segment ? segment_ - 1 : forest_.parent[segment_];
      if (segment_ < 0) return false;
      enter();
    }
    keys = {key_, key_end_ - key_ < kTileTokens ? key_end_ - key_ : kTileTokens, token_end_};
    key_ += kTileTokens;
    return true;
  }

 private:
  __device__ __forceinline__ void enter() {
    const int32_t subtree = forest_.start[forest_.end[segment_]], stop = forest_.start[segment_ + 1];
    key_ = forest_.start[segment_];
    token_end_ = tile_.end < subtree ? tile_.end : subtree;
    key_end_ = token_end_ < stop ? token_end_ : stop;
  }
  const Forest& forest_;
  const TokenTile& tile_;
  int32_t segment_, key_, key_end_, token_end_;
};

template <class F>
__device__ __forceinline__ void for_each_key_tile(const Forest& forest, const TokenTile& tile, F&& f) {
  KeyWalk walk(forest, tile);
  for (KeyTile keys{}; walk.next(keys);) f(keys);
}

// How many of the tile's keys query t sees: the first ones.
__device__ __forceinline__ int visible_keys(const KeyTile& keys, int32_t t) {
  if (t >= keys.token_end || t < keys.key) return 0;
  return t - keys.key + 1 < keys.keys ? t - keys.key + 1 : keys.keys;
}

}  // namespace grpo::cuda
