// The lists of work of shared-prefix attention, made on the device by one block: the host knows neither the segments
// nor how many tiles they have, only a bound. Reads 12 bytes per segment a few times, writes 16 bytes per tile twice.
//
// Also here, and once per list: whether the arrays describe a forest of P tokens at all. A bad one has no tiles.
#include "attention/schedule.cuh"

#include "attention/attention.cuh"
#include "blocks/offsets.cuh"
#include "blocks/scan.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256, kBuckets = 32;

struct Shared {
  int32_t partial[kThreads / kWarp];
  int32_t longest;
  int32_t bucket[kBuckets * kThreads];  // by bucket, then by thread
};

__device__ __forceinline__ int32_t smaller(int32_t x, int32_t y) { return x < y ? x : y; }
__device__ __forceinline__ int32_t key_tiles(int32_t tokens) { return (tokens + kTileTokens - 1) / kTileTokens; }

// Whether segment b stands where its parent and its siblings say: with it in all places the arrays are a forest in
// depth-first order, and each subtree ends where the next begins.
__device__ bool good_segment(const Forest& forest, int64_t b) {
  const int64_t B = forest.B, parent = forest.parent[b], end = forest.end[b];
  if (forest.start[b] < 0 || forest.start[b] > forest.start[b + 1] || forest.start[b + 1] > forest.P) return false;
  if (parent < -1 || parent >= b || end <= b || end > B) return false;
  const bool child = b + 1 < B && forest.parent[b + 1] == b;
  if (!child && end != b + 1) return false;
  if (parent < 0) return end == B || forest.parent[end] == -1;
  const int64_t above = forest.end[parent];
  if (b >= above || end > above) return false;
  return end == above || forest.parent[end] == parent;
}

struct QueryTiles {
  // Of the tree whose root is b: none elsewhere. Long segments begin a tile of their own and short ones are packed
  // together. A tile lies in one tree, so that no sum depends on a tree's neighbours.
  template <class F>
  static __device__ void for_each(const Forest& forest, int64_t b, int32_t tokens, F&& f) {
    if (forest.parent[b] >= 0) return;
    TokenTile tile{0, 0, 0, 0, 0};
    for (const int64_t last = forest.end[b]; b < last; ++b) {
      const int32_t stop = forest.start[b + 1];
      if (tile.end > tile.begin && tile.end - tile.begin + (stop - forest.start[b]) > tokens) {
        f(tile);
        tile.begin = tile.end;
      }
      for (int32_t at = forest.start[b]; at < stop; at = tile.end) {
        if (tile.begin == tile.end) tile = {static_cast<int32_t>(b), at, at, 0, 0};
        tile.end = smaller(stop, at + tokens - (tile.end - tile.begin));
        if (tile.end - tile.begin < tokens) continue;
        f(tile);
        tile.begin = tile.end;
      }
    }
    if (tile.end > tile.begin) f(tile);
  }
  static __device__ int32_t least_position(const Forest& forest, const TokenTile& tile) {
    int32_t least = forest.position[tile.begin];
    for (int64_t b = tile.segment + 1; b < forest.B && forest.start[b] < tile.end; ++b)
      if (forest.start[b] < forest.start[b + 1]) least = smaller(least, forest.position[forest.start[b]]);
    return least;
  }
  static __device__ int32_t cost(const Forest& forest, const TokenTile& tile) {
    if (forest.position != nullptr) return key_tiles(smaller(forest.position[tile.end - 1], forest.window));
    int32_t cost = 0;
    int64_t b = tile.segment;
    for (; b + 1 < forest.B && forest.start[b + 1] < tile.end; ++b)
      cost += key_tiles(smaller(tile.end, forest.start[b + 1]) - forest.start[b]);
    cost += key_tiles(tile.end - forest.start[b]);
    for (b = forest.parent[tile.segment]; b >= 0; b = forest.parent[b])
      cost += key_tiles(forest.start[b + 1] - forest.start[b]);
    return cost;
  }
};

struct KeyTiles {
  static __device__ int32_t least_position(const Forest& forest, const TokenTile& tile) {
    return forest.position[tile.begin];
  }
  template <class F>
  static __device__ void for_each(const Forest& forest, int64_t b, int32_t tokens, F&& f) {
    const int32_t stop = forest.start[b + 1];
    for (int32_t at = forest.start[b]; at < stop; at += tokens)
      f(TokenTile{static_cast<int32_t>(b), at, smaller(stop, at + tokens), 0, 0});
  }
  static __device__ int32_t cost(const Forest& forest, const TokenTile& tile) {
    return key_tiles(forest.start[forest.end[tile.segment]] - tile.begin);
  }
};

// Grid: 1. Block: 256. Shared: 32,804. Work: 12 bytes per segment a few times, 16 per tile twice. Bound: latency.
template <class Tiles>
__global__ void __launch_bounds__(kThreads, 1)
    list_tiles_kernel(Forest forest, int32_t tokens,
                      int32_t* place,       // [B]      scratch
                      TokenTile* unsorted,  // [bound]  scratch
                      TokenTile* tiles,     // [bound]
                      int32_t* count_out,   // [1]
                      uint32_t* next) {     // [1]
  DYN_SMEM(Shared, shared);
  if (threadIdx.x == 0) *next = 0;
  bool good = forest.start[0] == 0 && forest.start[forest.B] == forest.P;
  for (int64_t b = threadIdx.x; b < forest.B; b += kThreads) good = good && good_segment(forest, b);
  if (threadIdx.x == 0) shared.longest = 1;
  if (__syncthreads_or(!good)) {
    if (threadIdx.x == 0) *count_out = -1;
    return;
  }
  int32_t count = 0;
  for (int64_t begin = 0; begin < forest.B; begin += kThreads) {
    const int64_t b = begin + threadIdx.x;
    int32_t own = 0;
    if (b < forest.B) Tiles::for_each(forest, b, tokens, [&](const TokenTile&) { ++own; });
    const Scanned<int32_t> scanned = block_scan(own, shared.partial);
    if (b < forest.B) place[b] = count + scanned.before;
    count += scanned.total;
  }
  for (int64_t b = threadIdx.x; b < forest.B; b += kThreads) {
    int32_t at = place[b];
    Tiles::for_each(forest, b, tokens, [&](const TokenTile& tile) { unsorted[at++] = tile; });
  }
  __syncthreads();
  int32_t longest = 1;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    const int32_t cost = Tiles::cost(forest, unsorted[i]);
    unsorted[i].cost = cost;
    if (forest.position != nullptr) unsorted[i].position = Tiles::least_position(forest, unsorted[i]);
    longest = cost > longest ? cost : longest;
  }
  atomicMax(&shared.longest, longest);
  for (int bucket = 0; bucket < kBuckets; ++bucket) shared.bucket[bucket * kThreads + threadIdx.x] = 0;
  __syncthreads();

  // A counting sort: each thread has a piece of the tiles, and a place for it in each bucket.
  const int64_t divisor = shared.longest;
  const auto bucket_of = [&](const TokenTile& tile) {
    return static_cast<int>((kBuckets - 1) - tile.cost * int64_t{kBuckets - 1} / divisor) * kThreads +
           static_cast<int>(threadIdx.x);
  };
  const int64_t piece = ceil_div(count, kThreads), first = piece * threadIdx.x;
  const int64_t last = first + piece < count ? first + piece : count;
  for (int64_t i = first; i < last; ++i) ++shared.bucket[bucket_of(unsorted[i])];
  __syncthreads();
  int32_t* own = &shared.bucket[threadIdx.x * kBuckets];
  int32_t sum = 0;
  for (int i = 0; i < kBuckets; ++i) sum += own[i];
  int32_t at = block_scan(sum, shared.partial).before;
  for (int i = 0; i < kBuckets; ++i) {
    const int32_t size = own[i];
    own[i] = at;
    at += size;
  }
  __syncthreads();
  for (int64_t i = first; i < last; ++i) tiles[shared.bucket[bucket_of(unsorted[i])]++] = unsorted[i];
  if (threadIdx.x == 0) *count_out = count;
}

// The places of tokens on their paths. Of what is no forest they are not read.
// Grid: ceil(P / 256). Block: 256. Shared: 0. Work: 4 bytes per token, 8 per ancestor. Bound: latency.
__global__ void __launch_bounds__(kThreads) positions_kernel(Forest forest, int32_t* position) {  // [P]
  const int64_t t = thread_index();
  if (t >= forest.P) return;
  const int64_t own = last_at_most(forest.start, 0, forest.B - 1, t);
  int64_t before = t - forest.start[own], above = own;
  for (int64_t b = forest.parent[own]; b >= 0 && b < above; b = forest.parent[above]) {
    before += forest.start[b + 1] - forest.start[b];
    above = b;
  }
  position[t] = static_cast<int32_t>(before);
}

template <class Tiles>
WorkList list_tiles(const Forest& forest, int32_t tokens, Launch& on) {
  const int64_t bound = forest.P / tokens + forest.B;
  TokenTile* tiles = on.scratch<TokenTile>(bound);
  int32_t* count = on.scratch<int32_t>(1);
  uint32_t* next = on.scratch<uint32_t>(1);
  on(list_tiles_kernel<Tiles>, {1, kThreads, sizeof(Shared)}, forest, tokens, on.scratch<int32_t>(forest.B),
     on.scratch<TokenTile>(bound), tiles, count, next);
  return {tiles, count, next, bound, tokens};
}

}  // namespace

int32_t* find_positions(const Forest& forest, Launch& on) {
  int32_t* position = on.scratch<int32_t>(forest.P);
  on(positions_kernel, {ceil_div(forest.P, kThreads), kThreads}, forest, position);
  return position;
}

WorkList list_query_tiles(const Forest& forest, int32_t tokens, Launch& on) {
  return list_tiles<QueryTiles>(forest, tokens, on);
}
WorkList list_key_tiles(const Forest& forest, Launch& on) { return list_tiles<KeyTiles>(forest, kTileTokens, on); }

}  // namespace grpo::cuda
