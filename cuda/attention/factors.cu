#include "attention/factors.cuh"

#include "blocks/powers.cuh"
#include "blocks/reduce.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 128, kPiece = 8, kMost = 4;
constexpr int kFewest = 28;  // a row may be so many powers of two below its tile

struct Copies {
  Copied of[kMost];
  int32_t count;
  int64_t heads, P;
};

struct Shared {
  float largest[kTileTokens];  // of each row
  float partial[kThreads / kWarp];
};

struct Larger {
  __device__ __forceinline__ float operator()(float x, float y) const { return x > y ? x : y; }
};

__device__ __forceinline__ float magnitude(float x) { return isfinite(x) ? fabsf(x) : 0; }

// Eight numbers from a column on; zeros past the end.
template <class T>
__device__ __forceinline__ void load_piece(const Copied& copied, int64_t token, int64_t head, int column,
                                           float (&x)[kPiece]) {
  const T* row = static_cast<const T*>(copied.from.data) + token * copied.from.stride + head * copied.columns;
  if (column + kPiece <= copied.columns && reinterpret_cast<uintptr_t>(row + column) % 16 == 0) {
    const Words4 words = *reinterpret_cast<const Words4*>(row + column);
    const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < kPiece; ++i)
      x[i] = to_float(T{static_cast<uint16_t>(i % 2 == 0 ? pairs[i / 2] & 0xffffu : pairs[i / 2] >> 16)});
    return;
  }
#pragma unroll
  for (int i = 0; i < kPiece; ++i) x[i] = column + i < copied.columns ? to_float(row[column + i]) : 0;
}

template <class T>
__device__ void copy_tile(const Copied& copied, int64_t P, const TokenTile& tile, int64_t head, Shared& shared) {
  const int pieces = static_cast<int>(copied.width / kPiece), lanes = pieces <= 8 ? 8 : pieces <= 16 ? 16 : 32;
  const int count = tile.end - tile.begin, piece = threadIdx.x % lanes, column = piece * kPiece;
  float most = 0;
  for (int first = 0; first < count; first += kThreads / lanes) {
    const int row = first + threadIdx.x / lanes;
    const bool inside = row < count && piece < pieces;
    float x[kPiece], own = 0;
    if (inside) {
      load_piece<T>(copied, tile.begin + row, head, column, x);
#pragma unroll
      for (int i = 0; i < kPiece; ++i) own = Larger{}(own, magnitude(x[i]));
    }
    for (int distance = lanes / 2; distance > 0; distance /= 2)
      own = Larger{}(own, __shfl_xor_sync(kAllLanes, own, distance));
    if (row < count && piece == 0) shared.largest[row] = own;
    most = Larger{}(most, own);
  }
  most = block_reduce(most, shared.partial, Larger{});  // and the rows' are there
  const int of_tile = power_for(most);
  bool marked = false;
  for (int row = threadIdx.x / lanes; row < count && piece < pieces; row += kThreads / lanes) {
    const int of_row = power_for(shared.largest[row]);
    const PowerOfTwo factor(copied.by_row ? of_row : of_tile);
    float x[kPiece];
    load_piece<T>(copied, tile.begin + row, head, column, x);
    uint32_t pairs[kPiece / 2];
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      x[i] = factor.times(copied.negative ? -x[i] : x[i]);
      if (!copied.by_row && of_row - of_tile > kFewest && x[i] == x[i] && to_float(from_float<f16>(x[i])) != x[i])
        marked = true;
    }
#pragma unroll
    for (int i = 0; i < kPiece / 2; ++i) pairs[i] = pack2<f16>(x[2 * i], x[2 * i + 1]);
    *reinterpret_cast<Words4*>(copied.to.data + (head * P + tile.begin + row) * copied.width + column) =
        Words4{pairs[0], pairs[1], pairs[2], pairs[3]};
  }
  marked = __syncthreads_or(marked);
  for (int row = threadIdx.x; row < count; row += kThreads)
    copied.to.power[head * P + tile.begin + row] =
        marked ? kMarked : (copied.by_row ? shared.largest[row] : most) == 0 ? kZeros
                         : copied.by_row ? power_for(shared.largest[row]) : of_tile;
  __syncthreads();  // the next tile's rows go where this one's were
}

// Grid: tiles of keys x heads, at most 8 per multiprocessor. Block: 128. Shared: 272. Work: 6 bytes per number, 4 of
// them from memory. Bound: memory.
__global__ void __launch_bounds__(kThreads, 8) attention_factors_kernel(Copies copies, WorkList tiles) {
  DYN_SMEM(Shared, shared);
  const int64_t count = *tiles.count;
  for (int64_t item = blockIdx.x; item < count * copies.heads; item += gridDim.x) {
    int64_t head = item % copies.heads;
    int which = 0;
    for (; head >= copies.of[which].heads; ++which) head -= copies.of[which].heads;
    const Copied& copied = copies.of[which];
    const TokenTile& tile = tiles.tiles[item / copies.heads];
    if (copied.type == Float::kBf16) copy_tile<bf16>(copied, copies.P, tile, head, shared);
    else copy_tile<f16>(copied, copies.P, tile, head, shared);
  }
}

}  // namespace

Copied copy_of(const Heads& from, Float type, int64_t P, int64_t heads, int64_t columns, int64_t width, bool by_row,
               Launch& on) {
  return {from, type, heads, columns, width, by_row, false,
          {on.scratch<f16>(heads * P * width), on.scratch<int32_t>(heads * P)}};
}

void make_copies(const Copied* copies, int count, int64_t P, const WorkList& key_tiles, Launch& on) {
  Copies all{};
  all.count = count;
  all.P = P;
  for (int i = 0; i < count; ++i) {
    all.of[i] = copies[i];
    all.heads += copies[i].heads;
  }
  on(attention_factors_kernel, {blocks_for(key_tiles.bound * all.heads, 8, on), kThreads, sizeof(Shared)}, all,
     key_tiles);
}

}  // namespace grpo::cuda
