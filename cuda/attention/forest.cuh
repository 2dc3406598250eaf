// Who sees whom in shared-prefix attention.
//
// A token t sees the key j of segment b if j <= t < segment_start[segment_end[b]]: one rule for ancestors (always
// before t) and for the own segment. So a tile of keys needs one segment, while a tile of queries may hold several.
//
// With a window of w it sees the last w tokens of its path alone: of those keys the ones whose place on their path is
// above its own less w. Places count through the ancestors, so that a window reaches from a response into its prompt.
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
  int32_t window;           // kNoWindow: none
  const int32_t* position;  // [P]    the place of each token on its path; null without a window
};
constexpr int32_t kNoWindow = INT32_MAX;

struct TokenTile {
  int32_t segment;  // of the first token
  int32_t begin, end;
  int32_t cost;      // pairs of tiles
  int32_t position;  // the least of its tokens', where there is a window
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
    position_ = tile.position;
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
    if (forest.position == nullptr || key_ >= key_end_) return;
    const int64_t hidden = int64_t{position_} - forest.window + 1 - forest.position[key_];
    if (hidden >= key_end_ - key_) key_ = key_end_;
    else if (hidden > 0) key_ += static_cast<int32_t>(hidden) / kTileTokens * kTileTokens;
  }
  int32_t first_, end_, position_;  // of the tile: segment of the first token, end, and its place
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
// How many of them its window has left behind. t < P.
__device__ __forceinline__ int hidden_keys(const Forest& forest, const KeyTile& keys, int32_t t) {
  if (forest.position == nullptr || t < keys.key || t >= keys.token_end) return 0;
  const int64_t hidden = int64_t{forest.position[t]} - forest.window + 1 - forest.position[keys.key];
  return hidden <= 0 ? 0 : hidden < keys.keys ? static_cast<int>(hidden) : keys.keys;
}

// The queries that see keys of a tile, in runs of neighbours: [token, end). Without a window there is one run.
class QueryWalk {
 public:
  // The first run: a key is seen by its own token at least.
  __device__ __forceinline__ void begin(const Forest& forest, const TokenTile& tile) {
    segment_ = tile.segment;
    last_ = forest.end[segment_];
    token = tile.begin;
    end = forest.start[last_];
    if (forest.position == nullptr) return;
    reach_ = int64_t{forest.position[tile.end - 1]} + forest.window;  // places before it
    end = end_of(forest, token);
    join(forest);
  }
  // The next run.
  __device__ __forceinline__ bool next(const Forest& forest) {
    if (forest.position == nullptr) return false;
    while (segment_ < last_) {
      token = forest.start[segment_];
      if (token < forest.start[segment_ + 1]) {
        end = end_of(forest, token);
        if (end > token) {
          join(forest);
          return true;
        }
        segment_ = forest.end[segment_];  // nor is what lies below it within reach
      } else {
        ++segment_;
      }
    }
    return false;
  }

  int32_t token, end;

 private:
  // Of the run from `first` on in its segment.
  __device__ __forceinline__ int32_t end_of(const Forest& forest, int32_t first) const {
    const int64_t reached = reach_ - forest.position[first], stop = forest.start[segment_ + 1];
    return static_cast<int32_t>(reached <= 0 ? first : first + reached < stop ? first + reached : stop);
  }
  // Takes the neighbours in, as long as all of a segment is within reach.
  __device__ __forceinline__ void join(const Forest& forest) {
    while (end == forest.start[segment_ + 1] && ++segment_ < last_) {
      if (forest.start[segment_] == forest.start[segment_ + 1]) continue;
      end = end_of(forest, forest.start[segment_]);
    }
    if (segment_ < last_ && end > forest.start[segment_]) segment_ = forest.end[segment_];
  }
  int32_t segment_, last_;
  int64_t reach_;
};

}  // namespace grpo::cuda
