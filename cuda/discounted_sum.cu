// The discounted sum of the values from each token to the end of its sequence.
//
// Sequences are cut into pieces of kPiece tokens, counted from the end: a warp has one. It keeps the values of its
// unmasked tokens in shared memory, one behind the other, and each lane a run of them. The lanes sum their runs, a scan
// over the lanes joins these (all runs are equally long, so that one power of `decay` is the factor of every lane), and
// each lane goes through its run once more from what follows it.
//
// Two launches. In the first the last piece of each sequence, after which nothing comes, is completed; of every other
// one only the sum is kept. In the second those go through the sums of the pieces after them. 8 bytes per token, 9 with
// a mask, and before the last kPiece tokens of a sequence 4 or 5 more, mostly from the L2 cache. 60 instructions of a
// warp for 32 tokens, and some 350 for a piece (sm_90a). Of 32 k tokens the 31 pieces are 31 warps: each has four loops
// of 33 steps and one over the pieces after it, where one warp for all would take 256 scans of 128 tokens.
//
// Sums are float64, and their order depends on nothing but the sequence's own length and mask. A launch before looks at
// the offsets: where one of them is bad, which sequences meet is not known, and all tokens are NaN.
#include "blocks/offsets.cuh"
#include "launch/operation.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int kRun = 33, kPiece = kRun * kWarp;  // odd, so that the lanes of a warp read different banks

// Of a multiprocessor. Without that number ptxas aims at more, and spills.
constexpr int kBlocks = 10;

struct Shared {
  float value[kWarps][kPiece];
};

// What comes after a piece goes through it: y = own + factor * after.
struct Step {
  double own, factor;
};

// A factor that ran down to 0 would make NaN of an infinity that follows. No finite sum shows a factor of 2^-1000.
__device__ __forceinline__ double not_zero(double factor, double decay) {
  return decay > 0 ? fmax(factor, 0x1p-1000) : factor;
}

__device__ __forceinline__ double power(double decay, int n) {
  double product = 1;
  for (double square = decay; n > 0; n /= 2, square *= square)
    if (n % 2 != 0) product *= square;
  return not_zero(product, decay);
}

// Of n tokens, by one warp. `after`: the sum at the token behind them.
__device__ __forceinline__ Step sum_piece(const float* x,       // [n]
                                          const uint8_t* mask,  // [n], may be null
                                          float* y,             // [n], may be x; null: not wanted
                                          int n, double decay, double after,
                                          float* value) {  // [kPiece], shared memory of the warp
  // visit(i, live, place): where token i has its place among the unmasked ones. Returns how many those are.
  const auto for_tokens = [&](auto visit) {
    int before = 0;
#pragma unroll 4
    for (int base = 0; base < n; base += kWarp) {
      const int i = base + lane_index();
      const bool live = i < n && (mask == nullptr || mask[i] != 0);
      const uint32_t lanes = __ballot_sync(kAllLanes, live);
      visit(i, live, before + __popc(lanes & ((1u << lane_index()) - 1)));
      before += __popc(lanes);
    }
    return before;
  };
  const int count = for_tokens([&](int i, bool live, int place) {
    const float own = i < n ? x[i] : 0;  // the mask is not waited for
    if (live) value[place] = own;
  });
  __syncwarp();

  const int run = (count + kWarp - 1) / kWarp | 1, begin = lane_index() * run;
  const int first = begin < count ? begin : count, end = begin + run < count ? begin + run : count;
  const bool last = count == 0 ? lane_index() == 0 : first < count && end == count;
  double sum = last ? after : 0;
  for (int i = end; i-- > first;) sum = value[i] + decay * sum;
  double factor = power(decay, run);
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const double next = __shfl_down_sync(kAllLanes, sum, distance);
    if (lane_index() + distance < kWarp) sum += factor * next;
    factor = not_zero(factor * factor, decay);
  }
  const Step whole{__shfl_sync(kAllLanes, sum, 0), power(decay, count)};
  if (y == nullptr) return whole;

  double follows = __shfl_down_sync(kAllLanes, sum, 1);
  if (last) follows = after;
  for (int i = end; i-- > first;) {
    follows = value[i] + decay * follows;
    value[i] = static_cast<float>(follows);
  }
  __syncwarp();
  for_tokens([&](int i, bool live, int place) {
    if (i < n) y[i] = live ? value[place] : 0;
  });
  return whole;
}

// A piece with others after it. Each has a slot: those of a sequence follow one another, from its end on.
struct EarlierPiece {
  int64_t sequence, after;  // how many pieces come after it, at least one
  int64_t begin, end;       // begin = end: the slot has no piece
};

__device__ __forceinline__ int64_t first_slot(const int32_t* start, int64_t s) { return start[s] / kPiece; }

__device__ __forceinline__ EarlierPiece earlier_piece(const int32_t* start, int64_t S, int64_t slot) {
  const int64_t s = last_where(0, S - 1, [&](int64_t i) { return first_slot(start, i) <= slot; });
  const int64_t begin = start[s], after = slot - first_slot(start, s) + 1, end = start[s + 1] - after * kPiece;
  if (end <= begin) return {s, after, 0, 0};
  return {s, after, end - kPiece > begin ? end - kPiece : begin, end};
}

__device__ __forceinline__ int64_t warp_of_grid() { return int64_t{blockIdx.x} * kWarps + warp_index(); }
__device__ __forceinline__ const uint8_t* from(const uint8_t* mask, int64_t t) {
  return mask == nullptr ? nullptr : mask + t;
}

// Grid: ceil((S + T / 1,056 + 1) / 4). Block: 128. Shared: 16,896. Work: 4 bytes per token, 5 with a mask, 4 more for
// those of the last pieces. Bound: memory.
__global__ void __launch_bounds__(kThreads, kBlocks)
    last_pieces_kernel(const float* x,        // [T]
                       const int32_t* start,  // [S+1]
                       const uint8_t* mask,   // [T], may be null
                       const uint32_t* bad,   // [1], not 0: offsets are bad
                       Step* steps,           // [S + T / kPiece]: of the last pieces, and of the others
                       float* y,              // [T]
                       int64_t S, int64_t T, double decay) {
  DYN_SMEM(Shared, shared);
  if (*bad != 0) {
    for (int64_t t = thread_index(); t < T; t += int64_t{gridDim.x} * kThreads) y[t] = NAN;
    return;
  }
  const int64_t warp = warp_of_grid();
  const bool last = warp < S;
  if (warp >= S + T / kPiece || S == 0) return;
  int64_t begin, end;
  if (last) {
    begin = start[warp], end = start[warp + 1];
    if (end - begin > kPiece) begin = end - kPiece;
  } else {
    const EarlierPiece piece = earlier_piece(start, S, warp - S);
    begin = piece.begin, end = piece.end;
  }
  if (begin == end) return;
  const Step step = sum_piece(x + begin, from(mask, begin), last ? y + begin : nullptr, static_cast<int>(end - begin),
                              decay, 0, shared.value[warp_index()]);
  if (lane_index() == 0) steps[warp] = step;
}

// Grid: ceil(T / 1,056 / 4). Block: 128. Shared: 16,896. Work: 8 bytes per token before the last pieces, 9 with a mask,
// and 16 for each piece after its own. Bound: memory.
__global__ void __launch_bounds__(kThreads, kBlocks)
    earlier_pieces_kernel(const float* x,        // [T]
                          const int32_t* start,  // [S+1]
                          const uint8_t* mask,   // [T], may be null
                          const uint32_t* bad,   // [1], not 0: offsets are bad, and nothing is left to do
                          const Step* steps,     // [S + T / kPiece]
                          float* y,              // [T]
                          int64_t S, int64_t T, double decay) {
  DYN_SMEM(Shared, shared);
  const int64_t slot = warp_of_grid();
  if (*bad != 0 || slot >= T / kPiece) return;
  const EarlierPiece piece = earlier_piece(start, S, slot);
  if (piece.begin == piece.end) return;
  double after = steps[piece.sequence].own;
  const Step* between = steps + S + first_slot(start, piece.sequence);
#pragma unroll 8
  for (int64_t i = 0; i < piece.after - 1; ++i) after = between[i].own + between[i].factor * after;
  sum_piece(x + piece.begin, from(mask, piece.begin), y + piece.begin, static_cast<int>(piece.end - piece.begin), decay,
            after, shared.value[warp_index()]);
}

using Args = grpo_discounted_sum_args;

int run(const Args& args, const Axes& axes, Launch& on) {
  const int64_t S = axes['S'], T = axes['T'], earlier = T / kPiece;
  if (args.out_x == nullptr || T == 0) return GRPO_OK;
  const int32_t* start = data<int32_t>(args.sequence_start);
  const float* x = data<float>(args.x);
  const uint8_t* mask = data<uint8_t>(args.mask);
  float* y = data<float>(args.out_x);
  const uint32_t* bad = bad_offsets(start, S, T, on);
  Step* steps = on.scratch<Step>(S + earlier);
  on(last_pieces_kernel, {ceil_div(S + earlier + 1, kWarps), kThreads, sizeof(Shared)}, x, start, mask, bad, steps, y,
     S, T, args.decay);
  if (S > 0)
    on(earlier_pieces_kernel, {ceil_div(earlier, kWarps), kThreads, sizeof(Shared)}, x, start, mask, bad, steps, y, S,
       T, args.decay);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kDiscountedSum, discounted_sum);

}  // namespace grpo::cuda
