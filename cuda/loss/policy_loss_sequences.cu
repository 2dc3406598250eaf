// What precedes the tokens of a policy loss: the unmasked tokens of each sequence, the denominators, and for ratios of
// sequences the log-ratio of each and the derivative with respect to it.
//
// Passes over sequences run over pieces, one warp each (pieces.cuh). Everything is float64, summed in a fixed order.
//
// The mask is read once for the counts, 1 byte per token. Ratios of sequences read logp, oldLogp and mask once more for
// the log-ratios, and where the gradient flows to the whole sequence all that its terms need for the derivatives.
#include "blocks/pieces.cuh"
#include "blocks/reduce.cuh"
#include "loss/policy_loss.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;

// ---- pieces of sequences --------------------------------------------------------------------------------------------

// What a pass adds up over the tokens of a piece, and how many blocks of it a multiprocessor is to hold: without that
// number ptxas aims higher, and spills; with one more it spills the whole of a token's term.
struct Unmasked {
  static constexpr int kBlocks = 8;
  static __device__ __forceinline__ double of(const LossPass& pass, int64_t t, int64_t) {
    return unmasked(pass.in, t) ? 1 : 0;
  }
};

struct LogRatio {
  static constexpr int kBlocks = 8;
  static __device__ __forceinline__ double of(const LossPass& pass, int64_t t, int64_t s) {
    const LossInputs& in = pass.in;
    if (!unmasked(in, t)) return 0;
    const double logp = in.logp[t], log_ratio = logp - (in.old_logp == nullptr ? in.logp : in.old_logp)[t];
    const double advantage = in.advantage == nullptr ? 0 : in.advantage[s];
    return summed_log_ratio(pass.objective, log_ratio, advantage, pass.interval);
  }
};

struct Derivative {
  static constexpr int kBlocks = 7;
  static __device__ __forceinline__ double of(const LossPass& pass, int64_t t, int64_t s) {
    return token_term(pass, t, s, pass.in.logp[t], 0).grad_log_ratio;
  }
};

// Grid: ceil(slots / 4). Block: 128. Shared: 0. Work: 1 byte per token for counts, 9 for log-ratios, 17 for
// derivatives; 8 per piece. Bound: memory.
template <class Value>
__global__ void __launch_bounds__(kThreads, Value::kBlocks)
    pieces_kernel(LossPass pass,
                  double* sums,  // [count], a number for each slot
                  int64_t count) {
  const int64_t slot = int64_t{blockIdx.x} * kWarps + warp_index();
  if (slot >= count) return;
  const Piece piece = piece_of(pass.in.sequence_start, pass.in.S, pass.in.T, slot);
  double sum = 0;
  for (int64_t t = piece.begin + lane_index(); t < piece.end; t += kWarp) sum += Value::of(pass, t, piece.sequence);
  sum = warp_reduce(sum, Add{});
  if (lane_index() == 0) sums[slot] = sum;
}

__device__ double sum_of_pieces(const LossInputs& in, const double* sums, int64_t s) {
  const Range range = range_of(in.sequence_start, s, in.T);
  const int64_t first = first_slot(in.sequence_start, s);
  const int64_t pieces = ceil_div(range.end - range.begin, kPiece);
  double sum = 0;
  for (int64_t piece = 0; piece < pieces; ++piece) sum += sums[first + piece];
  return sum;
}

// ---- counts and denominators ----------------------------------------------------------------------------------------

struct Totals {
  int64_t tokens, sequences;
  int64_t bad;  // sequences with bad offsets
};

struct TotalsShared {
  int64_t partial[kWarps];
};

// Grid: ceil(S / 128). Block: 128. Shared: 32. Work: 8 bytes per piece, 8 per sequence. Bound: latency.
__global__ void __launch_bounds__(kThreads)
    counts_kernel(LossInputs in,
                  const double* unmasked_of_piece,  // [slots], null without a mask
                  int32_t* count,                   // [S]
                  Totals* totals) {                 // [blocks]
  DYN_SMEM(TotalsShared, shared);
  const int64_t s = thread_index();
  int32_t own = 0;
  bool bad = false;
  if (s < in.S) {
    const Range range = range_of(in.sequence_start, s, in.T);
    own = static_cast<int32_t>(unmasked_of_piece == nullptr ? range.end - range.begin
                                                            : sum_of_pieces(in, unmasked_of_piece, s));
    count[s] = own;
    bad = !range.good || (s == 0 && range.begin != 0) || (s == in.S - 1 && range.end != in.T);
  }
  const int64_t tokens = block_sum(int64_t{own}, shared.partial);
  const int64_t sequences = block_sum(int64_t{own != 0}, shared.partial);
  const int64_t bads = block_sum(int64_t{bad}, shared.partial);
  if (threadIdx.x == 0) totals[blockIdx.x] = {tokens, sequences, bads};
}

// One block.
// Grid: 1. Block: 128. Shared: 32. Work: 24 bytes per block of counts_kernel. Bound: latency.
__global__ void __launch_bounds__(kThreads)
    denominators_kernel(const Totals* totals,  // [blocks]
                        int64_t blocks,
                        const int32_t* count,               // [S]
                        CheckedDenominators* denominators,  // [1]
                        Objective objective, int64_t T, int64_t S) {
  DYN_SMEM(TotalsShared, shared);
  int64_t tokens = 0, sequences = 0, bad = S == 0 && T > 0 ? 1 : 0;
  for (int64_t block = threadIdx.x; block < blocks; block += kThreads) {
    tokens += totals[block].tokens;
    sequences += totals[block].sequences;
    bad += totals[block].bad;
  }
  tokens = block_sum(tokens, shared.partial);
  sequences = block_sum(sequences, shared.partial);
  bad = block_sum(bad, shared.partial);
  if (threadIdx.x == 0)
    *denominators = {denominators_of(objective, count, tokens, objective.count_empty ? S : sequences), bad == 0};
}

// ---- ratios of sequences --------------------------------------------------------------------------------------------

// Of the numbers of each sequence's pieces: their sum for the product of ratios, else their mean over tokens.
// Grid: ceil(S / 128). Block: 128. Shared: 0. Work: 8 bytes per piece, 16 per sequence. Bound: latency.
__global__ void __launch_bounds__(kThreads)
    sequences_kernel(LossPass pass,
                     const double* sums,  // [slots]
                     double* reduced) {   // [S]
  const int64_t s = thread_index();
  if (s >= pass.in.S) return;
  const double sum = sum_of_pieces(pass.in, sums, s);
  const int32_t count = pass.denominators->count[s];
  reduced[s] = pass.objective.ratio == Ratio::kSequenceProduct || count == 0 ? sum : sum / count;
}

template <class Value>
double* sums_of_pieces(const LossPass& pass, Launch& on) {
  const int64_t count = slots(pass.in.S, pass.in.T);
  double* sums = on.scratch<double>(count);
  on(pieces_kernel<Value>, {ceil_div(count, kWarps), kThreads}, pass, sums, count);
  return sums;
}

template <class Value>
double* of_sequences(const LossPass& pass, Launch& on) {
  const double* sums = sums_of_pieces<Value>(pass, on);
  double* reduced = on.scratch<double>(pass.in.S);
  on(sequences_kernel, {ceil_div(pass.in.S, kThreads), kThreads}, pass, sums, reduced);
  return reduced;
}

}  // namespace

LossPass prepare_loss(const LossInputs& in, const TokenIds& ids, const Objective& objective, Launch& on) {
  const int64_t blocks = ceil_div(in.S, kThreads);
  int32_t* count = on.scratch<int32_t>(in.S);
  Totals* totals = on.scratch<Totals>(blocks);
  CheckedDenominators* denominators = on.scratch<CheckedDenominators>(1);
  LossPass pass{in, ids, objective, denominators, nullptr, nullptr, clip_interval<double>(objective)};
  // k2 and its derivative are 0 without a reference as those of the others are, without an exponential.
  if (in.ref_logp == nullptr) pass.objective.kl = Kl::kK2;
  const double* unmasked_of_piece = in.mask == nullptr ? nullptr : sums_of_pieces<Unmasked>(pass, on);
  on(counts_kernel, {blocks, kThreads, sizeof(TotalsShared)}, in, unmasked_of_piece, count, totals);
  on(denominators_kernel, {1, kThreads, sizeof(TotalsShared)}, totals, blocks, count, denominators, objective,
     in.T, in.S);
  return pass;
}

void prepare_sequences(LossPass& pass, bool gradient, Launch& on) {
  if (pass.objective.ratio == Ratio::kToken) return;
  pass.log_ratio = of_sequences<LogRatio>(pass, on);
  if (gradient && pass.objective.ratio != Ratio::kSequenceToken)
    pass.sequence_gradient = of_sequences<Derivative>(pass, on);
}

}  // namespace grpo::cuda
