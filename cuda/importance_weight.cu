// Importance weights of the trainer over the inference engine, and rejection of tokens or sequences.
//
// One launch over blocks of tokens, which find their sequences as sequence_expand does, and one that adds the statistics
// of the blocks. What belongs to a sequence takes two before them: one warp per piece of a sequence (pieces.cuh), one per
// sequence. Normalisation reads the weights once more where the mean is one over sequences, and divides them. 13 bytes
// per token, 14 with a mask. The formulas are those of the CPU, native/loss/importance_token.h with double; all sums are
// float64 in a fixed order. A token that lies in no sequence, since offsets are bad, is NaN.
#include "blocks/piece_sums.cuh"
#include "blocks/reduce.cuh"
#include "launch/operation.cuh"
#include "native/loss/importance.h"

namespace grpo::cuda {
namespace {

#include "native/loss/importance_token.h"

constexpr int kThreads = 256, kWarps = kThreads / kWarp, kBlockTokens = 4 * kThreads;

struct Inputs {
  const float *old_logp, *rollout_logp;  // [T]
  const int32_t* start;                  // [S+1]
  const uint8_t* mask;                   // [T], may be null
  int64_t S, T;
};

// A NaN is neither.
struct Less {
  __device__ __forceinline__ double operator()(double x, double y) const { return y < x ? y : x; }
};
struct More {
  __device__ __forceinline__ double operator()(double x, double y) const { return y > x ? y : x; }
};
// NaN if any is.
struct Largest {
  __device__ __forceinline__ float operator()(float x, float y) const { return y > x || isnan(y) ? y : x; }
};

__device__ __forceinline__ bool counts(const Inputs& in, int64_t t) { return in.mask == nullptr || in.mask[t] != 0; }
__device__ __forceinline__ float log_ratio(const Inputs& in, int64_t t) { return in.old_logp[t] - in.rollout_logp[t]; }

// Of a piece: the log-ratios, the divergences and the largest of them.
struct PieceSums {
  double log_ratio, divergence;
  float largest;
  int32_t count, sequence;  // of unmasked tokens; -1: the slot has no piece
};

// Grid: ceil(slots / 8). Block: 256. Shared: 0. Work: 8 bytes per token, 9 with a mask; 32 per piece. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    ratio_sums_kernel(Inputs in, ImportanceOptions o,
                      PieceSums* sums) {  // [slots(S, T)]
  const int64_t slot = int64_t{blockIdx.x} * kWarps + warp_index();
  if (slot >= slots(in.S, in.T)) return;
  const Piece piece = piece_of(in.start, in.S, in.T, slot);
  PieceSums own{0, 0, -INFINITY, 0, -1};
  for (int64_t t = piece.begin + lane_index(); t < piece.end; t += kWarp) {
    if (!counts(in, t)) continue;
    const float d = log_ratio(in, t);
    own.log_ratio += d;
    ++own.count;
    if (o.scope <= RejectionScope::kToken) continue;
    const auto x = static_cast<float>(divergence<double>(o.estimate, d));
    own.divergence += x;
    own.largest = Largest{}(own.largest, x);
  }
  own.log_ratio = warp_reduce(own.log_ratio, Add{});
  own.divergence = warp_reduce(own.divergence, Add{});
  own.largest = warp_reduce(own.largest, Largest{});
  own.count = warp_reduce(own.count, Add{});
  if (piece.begin < piece.end) own.sequence = static_cast<int32_t>(piece.sequence);
  if (lane_index() == 0) sums[slot] = own;
}

struct OfSequence {
  double ratio;    // of `level`
  float rejected;  // the statistic of rejection
  bool gated;
};

__device__ __forceinline__ bool is_kept(float statistic, const ImportanceOptions& o) {
  return !(statistic < o.reject_low) && !(statistic > o.reject_high);
}

// Grid: ceil(S / 8). Block: 256. Shared: 0. Work: 32 bytes per piece, 24 per sequence. Bound: latency.
__global__ void __launch_bounds__(kThreads)
    of_sequence_kernel(Inputs in, ImportanceOptions o,
                       const PieceSums* sums,    // [slots(S, T)]
                       OfSequence* sequence) {   // [S]
  const int64_t s = int64_t{blockIdx.x} * kWarps + warp_index();
  if (s >= in.S) return;
  const Range range = range_of(in.start, s, in.T);
  const int64_t first = first_slot(in.start, s), pieces = ceil_div(range.end - range.begin, kPiece);
  double log = 0, divergences = 0;
  float largest = -INFINITY;
  int32_t count = 0;
  bool bad = !range.good;
  for (int64_t piece = lane_index(); piece < pieces; piece += kWarp) {
    const PieceSums own = sums[first + piece];
    bad |= own.sequence != s;
    log += own.log_ratio, divergences += own.divergence, count += own.count;
    largest = Largest{}(largest, own.largest);
  }
  bad = __any_sync(kAllLanes, bad);
  log = warp_reduce(log, Add{});
  divergences = warp_reduce(divergences, Add{});
  largest = warp_reduce(largest, Largest{});
  count = warp_reduce(count, Add{});
  if (lane_index() != 0) return;
  if (bad) log = NAN, divergences = NAN, largest = NAN;
  const auto average = [&](double total, bool mean) {
    return static_cast<float>(mean && count > 0 ? total / count : total);
  };
  const auto ratio = [&](ImportanceLevel level) {
    const double of = average(log, level == ImportanceLevel::kSequenceMean);
    return level > ImportanceLevel::kToken ? importance_ratio_of(of) : 1;
  };
  const float statistic =
      o.scope == RejectionScope::kMax ? largest : average(divergences, o.scope == RejectionScope::kMean);
  sequence[s] = {ratio(o.level), statistic, importance_gated(ratio(o.gate), o)};
}

struct Shared {
  int64_t bound[2];  // sequences of the first and last token of the block
  double partial[kWarps];
};

struct Outputs {
  float* weight;           // [T], may be null
  uint8_t* mask;           // [T], may be null
  double* block_stats;     // [blocks, kImportanceStatCount]
};

// Grid: ceil(T / 1,024). Block: 256. Shared: 80. Work: 13 bytes per token, 14 with a mask. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    importance_weight_kernel(Inputs in, ImportanceOptions o,
                             const OfSequence* sequence,  // [S], null: nothing belongs to a sequence
                             Outputs out) {
  DYN_SMEM(Shared, shared);
  const int64_t begin = int64_t{blockIdx.x} * kBlockTokens;
  const int64_t end = begin + kBlockTokens < in.T ? begin + kBlockTokens : in.T;
  if (threadIdx.x < 2)
    shared.bound[threadIdx.x] = last_at_most(in.start, 0, in.S - 1, threadIdx.x == 0 ? begin : end - 1);
  __syncthreads();
  double stats[kImportanceStatCount] = {};
  stats[kImportanceRatioMin] = INFINITY, stats[kImportanceRatioMax] = -INFINITY;
  const bool token_ratio = o.level == ImportanceLevel::kToken || o.gate == ImportanceLevel::kToken;
  for (int64_t t = begin + threadIdx.x; t < end; t += kThreads) {
    if (!counts(in, t)) {
      if (out.weight != nullptr) out.weight[t] = 0;
      if (out.mask != nullptr) out.mask[t] = 0;
      continue;
    }
    OfSequence of{NAN, NAN, false};
    bool found = false;
    if (in.S > 0) {
      const int64_t s = last_at_most(in.start, shared.bound[0], shared.bound[1], t);
      const Range range = range_of(in.start, s, in.T);
      found = range.begin <= t && t < range.end;
      if (found && sequence != nullptr) of = sequence[s];
    }
    const double d = found ? log_ratio(in, t) : NAN;
    const double of_token = token_ratio ? importance_ratio_of(d) : 1;
    const double ratio = o.level == ImportanceLevel::kToken ? of_token : of.ratio;
    const bool gated = o.gate == ImportanceLevel::kToken ? importance_gated(of_token, o) : of.gated;
    const ImportanceCut<double> cut = importance_cut(ratio, o);
    const float weight = static_cast<float>(gated ? 0 : cut.weight);
    bool kept = true;
    if (o.scope == RejectionScope::kToken) kept = is_kept(static_cast<float>(divergence(o.estimate, d)), o);
    else if (o.scope > RejectionScope::kToken) kept = is_kept(of.rejected, o);
    if (out.weight != nullptr) out.weight[t] = weight;
    if (out.mask != nullptr) out.mask[t] = kept;
    const double w = weight, distance = fabs(d);
    stats[kImportanceTokens] += 1;
    stats[kLogpDifference] += distance;
    stats[kLogpDifferenceMax] = More{}(stats[kLogpDifferenceMax], distance);
    stats[kEngineKl] -= d;
    stats[kImportanceRatio] += ratio;
    stats[kImportanceRatioMin] = Less{}(stats[kImportanceRatioMin], ratio);
    stats[kImportanceRatioMax] = More{}(stats[kImportanceRatioMax], ratio);
    stats[kWeight] += w;
    stats[kWeightSquare] += w * w;
    stats[kCutLow] += !gated && cut.low;
    stats[kCutHigh] += !gated && cut.high;
    stats[kGated] += gated;
    stats[kRejected] += !kept;
    stats[kImportanceNonFinite] += !isfinite(d) || !isfinite(w);
  }
#pragma unroll
  for (int i = 0; i < kImportanceStatCount; ++i) {
    const bool most = i == kLogpDifferenceMax || i == kImportanceRatioMax;
    const double all = most                      ? block_reduce(stats[i], shared.partial, More{})
                       : i == kImportanceRatioMin ? block_reduce(stats[i], shared.partial, Less{})
                                                 : block_sum(stats[i], shared.partial);
    if (threadIdx.x == 0) out.block_stats[int64_t{blockIdx.x} * kImportanceStatCount + i] = all;
  }
}

// One block per statistic.
// Grid: 14. Block: 256. Shared: 80. Work: 8 bytes per block of importance_weight_kernel. Bound: latency.
__global__ void __launch_bounds__(kThreads)
    stats_kernel(const double* block_stats,  // [blocks, kImportanceStatCount]
                 double* stats,              // [kImportanceStatCount]
                 int64_t blocks) {
  DYN_SMEM(Shared, shared);
  const int i = static_cast<int>(blockIdx.x);
  const bool most = i == kLogpDifferenceMax || i == kImportanceRatioMax, least = i == kImportanceRatioMin;
  double own = least ? INFINITY : i == kImportanceRatioMax ? -INFINITY : 0;
  for (int64_t block = threadIdx.x; block < blocks; block += kThreads) {
    const double x = block_stats[block * kImportanceStatCount + i];
    own = most ? More{}(own, x) : least ? Less{}(own, x) : own + x;
  }
  const double all = most    ? block_reduce(own, shared.partial, More{})
                     : least ? block_reduce(own, shared.partial, Less{})
                             : block_sum(own, shared.partial);
  if (threadIdx.x == 0) stats[i] = all;
}

struct MeanOf {
  float mean;
  int32_t count;  // 1: it has tokens
};

// Grid: ceil(S / 8). Block: 256. Shared: 0. Work: 16 bytes per piece, 8 per sequence. Bound: latency.
__global__ void __launch_bounds__(kThreads)
    weight_means_kernel(const int32_t* start,  // [S+1]
                        const Sum* sums,       // [slots(S, T)]
                        MeanOf* means,         // [S]
                        int64_t S, int64_t T) {
  const int64_t s = int64_t{blockIdx.x} * kWarps + warp_index();
  if (s >= S) return;
  const Sum whole = sum_of_pieces(start, sums, s, T);
  // Bad offsets are a sequence whose mean is NaN.
  const bool any = whole.count > 0 || isnan(whole.total);
  if (lane_index() == 0)
    means[s] = {static_cast<float>(whole.count > 0 ? whole.total / whole.count : whole.total), any};
}

// Of one block: the mean of those sequences that have tokens.
// Grid: 1. Block: 256. Shared: 80. Work: 8 bytes per sequence. Bound: latency.
__global__ void __launch_bounds__(kThreads)
    mean_of_means_kernel(const MeanOf* means,  // [S]
                         double* mean,         // [1]
                         int64_t S) {
  DYN_SMEM(Shared, shared);
  double total = 0, count = 0;
  for (int64_t s = threadIdx.x; s < S; s += kThreads)
    if (means[s].count > 0) total += means[s].mean, count += 1;
  total = block_sum(total, shared.partial);
  count = block_sum(count, shared.partial);
  if (threadIdx.x == 0) *mean = count > 0 ? total / count : 0;
}

// Grid: ceil(T / 256). Block: 256. Shared: 0. Work: 8 bytes per token. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    divide_kernel(float* weight,        // [T]
                  const double* mean,   // [1], null: that of the statistics
                  const double* stats,  // [kImportanceStatCount]
                  int64_t T) {
  const int64_t t = thread_index();
  if (t >= T) return;
  const double tokens = stats[kImportanceTokens];
  const double divisor = mean != nullptr ? *mean : tokens > 0 ? stats[kWeight] / tokens : 0;
  if (divisor != 0) weight[t] = static_cast<float>(weight[t] / divisor);
}

using Args = grpo_importance_weight_args;

int run(const Args& args, const Axes& axes, Launch& on) {
  if (const int status = check_importance(args)) return status;
  const ImportanceOptions o = importance_options(args);
  const int64_t S = axes['S'], T = axes['T'], blocks = ceil_div(T, kBlockTokens);
  const Inputs in{data<float>(args.old_logp), data<float>(args.rollout_logp), data<int32_t>(args.sequence_start),
                  data<uint8_t>(args.mask), S, T};
  const Outputs out{data<float>(args.weight), data<uint8_t>(args.out_mask),
                    on.scratch<double>(blocks * kImportanceStatCount)};
  OfSequence* sequence = nullptr;
  if (o.any_sequence() && S > 0) {
    PieceSums* sums = on.scratch<PieceSums>(slots(S, T));
    sequence = on.scratch<OfSequence>(S);
    on(ratio_sums_kernel, {ceil_div(slots(S, T), kWarps), kThreads}, in, o, sums);
    on(of_sequence_kernel, {ceil_div(S, kWarps), kThreads}, in, o, sums, sequence);
  }
  on(importance_weight_kernel, {blocks, kThreads, sizeof(Shared)}, in, o, sequence, out);
  const bool divides = o.normalize && out.weight != nullptr;
  double* stats = data<double>(args.stats);
  if (stats == nullptr && !divides) return GRPO_OK;
  if (stats == nullptr) stats = on.scratch<double>(kImportanceStatCount);
  on(stats_kernel, {kImportanceStatCount, kThreads, sizeof(Shared)}, out.block_stats, stats, blocks);
  if (!divides) return GRPO_OK;
  double* mean = nullptr;
  if (o.level != ImportanceLevel::kToken) {
    const Sum* sums = piece_sums(out.weight, in.start, in.mask, S, T, on);
    MeanOf* means = on.scratch<MeanOf>(S);
    mean = on.scratch<double>(1);
    on(weight_means_kernel, {ceil_div(S, kWarps), kThreads}, in.start, sums, means, S, T);
    on(mean_of_means_kernel, {1, kThreads, sizeof(Shared)}, means, mean, S);
  }
  on(divide_kernel, {ceil_div(T, kThreads), kThreads}, out.weight, mean, stats, T);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kImportanceWeight, importance_weight);

}  // namespace grpo::cuda
