// Who sees whom in shared-prefix attention, tile by tile.
//
// A token sees all tokens of its ancestor segments and its own segment up to itself. Work is cut into query tiles
// (consecutive tokens of one tree, times the query heads that share a key head) and key tiles (consecutive tokens of
// one segment). Because segments stand in depth-first order, the queries of a tile that see a key tile are always
// neighbours, so one product serves them all, however many small segments they belong to.
//
// With a window of w a token sees the last w tokens of its path alone. The queries that see a key tile are then those
// from the first to the last that does; some between may see none of it, as positions begin anew with each segment.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention/attention.h"

namespace grpo {

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
  int32_t position = 0;  // the least of its tokens on their paths, where there is a window
};

// Calls f(tile) for consecutive tiles of the tokens of segments [first, last), where `first` is a root. Long segments
// begin a tile of their own and short ones are packed together. A tile lies in one tree, so that the sums over the
// queries of a tree do not depend on its neighbours.
template <class F>
void for_each_query_tile(const Segments& segments, int64_t first, int64_t last, int64_t tokens, F&& f) {
  TokenTile tile{0, 0, 0};
  const auto flush = [&] {
    if (segments.has_window() && tile.end > tile.begin)
      tile.position = *std::min_element(segments.position + tile.begin, segments.position + tile.end);
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
  bool masked;  // some of them see only a part
};

// Leaves out of a pair the queries before and after those whose window reaches its keys, and the keys before the first
// that one of them sees. Whether there are any.
inline bool keep_window(const Segments& segments, TilePair& pair) {
  const int32_t* position = segments.position;
  const int64_t first = position[pair.key], window = segments.window;
  const auto reaches = [&](int32_t token) { return position[token] - window < first + pair.keys - 1; };
  while (pair.token < pair.token_end && !reaches(pair.token)) ++pair.token;
  while (pair.token < pair.token_end && !reaches(pair.token_end - 1)) --pair.token_end;
  if (pair.token == pair.token_end) return false;
  const auto [least, most] = std::minmax_element(position + pair.token, position + pair.token_end);
  const int32_t hidden = static_cast<int32_t>(std::max<int64_t>(0, *least - window + 1 - first));
  pair.masked |= *most - window >= first + hidden;
  pair.key += hidden;
  pair.keys -= hidden;
  return true;
}

// Key tiles of `segment` from token `begin` to `end`, with their queries in the tile.
template <class F>
void for_each_pair(const Segments& segments, int64_t segment, int32_t begin, int32_t end, const TokenTile& tile,
                   F&& f) {
  const int64_t stop = segments.start[segment + 1];
  const int64_t token_end = std::min(tile.end, segments.start[segments.end[segment]]);
  int64_t at = begin;
  if (segments.has_window() && begin < end) {
    const int64_t hidden = int64_t{tile.position} - segments.window + 1 - segments.position[begin];
    if (hidden > 0) at += hidden / kTileKeys * kTileKeys;
  }
  for (int64_t key = at; key < std::min<int64_t>(end, token_end); key += kTileKeys) {
    const int64_t token = std::max<int64_t>(tile.begin, key);
    if (token >= token_end) break;
    // Keys after the last query are hidden from all of them.
    const int64_t key_end = std::min({key + kTileKeys, stop, token_end});
    TilePair pair{static_cast<int32_t>(key), static_cast<int32_t>(key_end - key), static_cast<int32_t>(token),
                  static_cast<int32_t>(token_end), token < key_end - 1};
    if (!segments.has_window() || keep_window(segments, pair)) f(pair);
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

// Which keys of the pair each row sees, token by token and head by head, in ranges[2 * kTileRows].
inline KeyRanges seen_keys(const Segments& segments, const TilePair& pair, int64_t heads, int32_t* ranges) {
  if (!pair.masked) return {};
  int32_t *begin = ranges, *end = ranges + kTileRows;
  for (int32_t token = pair.token; token < pair.token_end; ++token) {
    int32_t first = 0;
    if (segments.has_window()) {
      const int64_t hidden = int64_t{segments.position[token]} - segments.window + 1 - segments.position[pair.key];
      first = static_cast<int32_t>(std::clamp<int64_t>(hidden, 0, pair.keys));
    }
    begin = std::fill_n(begin, heads, first);
    end = std::fill_n(end, heads, std::min(pair.keys, token - pair.key + 1));
  }
  return {ranges, ranges + kTileRows};
}

}  // namespace grpo
