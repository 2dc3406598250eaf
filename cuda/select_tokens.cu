// Which tokens to train on: those with the highest |advantage| * entropy.
//
// A score becomes a 32-bit key of the same order, kept in scratch memory: 9 to 13 bytes read per token and 4 written.
// What is kept is described by the key of the last token that is, and by its place, since of equal keys the first win;
// a last launch writes the mask from that: 4 bytes read per token, 1 written.
// - Few tokens, or each of several sequences for itself: one block per set finds the key, 8 bits at a time.
// - A batch, or one sequence: all blocks count digits of 11, 11 and 10 bits, each time those keys that share the digits
//   found before; the block that finishes last finds the digit. Then ties are counted, where not all of them are kept.
//   4 bytes per token and launch.
// Counts are integers, so that neither their order nor the number of blocks shows in the result. How many are kept is
// computed on the device.
#include "launch/operation.cuh"
#include "selection/token_cuts.cuh"

namespace grpo::cuda {
namespace {

enum Scope : int32_t { kBatch, kSequence };
enum Rule : int32_t { kAdvantageEntropy, kEntropy, kAdvantage };

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kPer = 8, kPiece = kPer * kWarp;  // tokens of a thread and of a warp
constexpr int64_t kFew = 16384;                 // the only set, if it is left to one block

struct Scores {
  const float* advantage;         // [S], may be null
  const float* token_advantage;   // [T], may be null
  const float* entropy;           // [T], null for rule advantage
  const int32_t* sequence_start;  // [S+1]
  const uint8_t* mask;            // [T], may be null
  int64_t S, T;
};

// The sequences in which the tokens of a warp lie: found once for the first and the last of them.
struct Sequences {
  int64_t first, last;
  __device__ __forceinline__ Sequences(const int32_t* start, int64_t S, int64_t begin, int64_t end)
      : first(last_at_most(start, 0, S - 1, begin)), last(last_at_most(start, first, S - 1, end - 1)) {}
  // -1 where the offsets hide it.
  __device__ __forceinline__ int64_t of(const int32_t* start, int64_t T, int64_t t) const {
    const int64_t s = last_at_most(start, first, last, t);
    const Range range = range_of(start, s, T);
    return range.good && range.begin <= t && t < range.end ? s : -1;
  }
};

// Grid: ceil(T / 2,048). Block: 256. Shared: 0. Work: 4 to 9 bytes read per token, 4 written. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    keys_kernel(Scores scores,
                uint32_t* keys) {  // [T]
  const int64_t begin = (int64_t{blockIdx.x} * kWarps + warp_index()) * kPiece;
  if (begin >= scores.T) return;
  const int64_t end = begin + kPiece < scores.T ? begin + kPiece : scores.T;
  const bool by_sequence = scores.advantage != nullptr;
  const Sequences sequences(scores.sequence_start, by_sequence ? scores.S : 1, begin, end);
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const int64_t t = begin + i * kWarp + lane_index();
    if (t >= end) continue;
    uint32_t key = kMaskedKey;
    if (scores.mask == nullptr || scores.mask[t] != 0) {
      float score = 1;
      bool known = true;
      if (scores.token_advantage != nullptr) {
        score = fabsf(scores.token_advantage[t]);
      } else if (by_sequence) {
        const int64_t s = sequences.of(scores.sequence_start, scores.T, t);
        known = s >= 0;
        score = known ? fabsf(scores.advantage[s]) : 0;
      }
      // Rounded to float32, as a caller's own product would be.
      if (scores.entropy != nullptr) score = __fmul_rn(score, scores.entropy[t]);
      if (known) key = key_of(score);
    }
    keys[t] = key;
  }
}

// ---- the mask -------------------------------------------------------------------------------------------------------

// Grid: ceil(T / 2,048). Block: 256. Shared: 0. Work: 5 bytes per token. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    write_kernel(const uint32_t* keys,           // [T]
                 const int32_t* sequence_start,  // [S+1], null: one set of all tokens
                 const Cut* cuts,                // [sets]
                 uint8_t* kept,                  // [T]
                 int64_t S, int64_t T) {
  const int64_t begin = (int64_t{blockIdx.x} * kWarps + warp_index()) * kPiece;
  if (begin >= T) return;
  const int64_t end = begin + kPiece < T ? begin + kPiece : T;
  const Sequences sequences(sequence_start, sequence_start == nullptr ? 1 : S, begin, end);
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const int64_t t = begin + i * kWarp + lane_index();
    if (t >= end) continue;
    const int64_t s = sequence_start == nullptr ? 0 : sequences.of(sequence_start, T, t);
    const Cut cut = s < 0 ? nothing() : cuts[s];
    kept[t] = keys[t] > cut.key || (keys[t] == cut.key && t <= cut.last);
  }
}

using Args = grpo_select_tokens_args;

int check_inputs(const Args& args) {
  if (args.advantage != nullptr && args.token_advantage != nullptr)
    return fail(GRPO_VALUE, "token_advantage", "is given together with {advantage}: expected one of the two");
  if (args.rule != kEntropy && args.advantage == nullptr && args.token_advantage == nullptr)
    return fail(GRPO_MISSING, "advantage", "is missing, and so is {token_advantage}: this {rule} needs one of the two");
  if (args.rule != kAdvantage && args.entropy == nullptr)
    return fail(GRPO_MISSING, "entropy", "is missing, but this {rule} needs it");
  return check_selection(args.count, args.fraction);
}

int run(const Args& args, const Axes& axes, Launch& on) {
  if (int status = check_inputs(args)) return status;
  const int64_t S = axes['S'], T = axes['T'];
  if (args.out_mask == nullptr || T == 0) return GRPO_OK;
  const bool by_advantage = args.rule != kEntropy, batch = args.scope == kBatch;
  const int32_t* sequence_start = data<int32_t>(args.sequence_start);
  const Scores scores{by_advantage ? data<float>(args.advantage) : nullptr,
                      by_advantage ? data<float>(args.token_advantage) : nullptr,
                      args.rule == kAdvantage ? nullptr : data<float>(args.entropy),
                      sequence_start,
                      data<uint8_t>(args.mask),
                      S,
                      T};
  uint8_t* kept = data<uint8_t>(args.out_mask);
  if (S == 0 && (!batch || scores.advantage != nullptr)) {  // offsets that nobody could check: no token has a sequence
    on.zero(kept, T);
    return GRPO_OK;
  }
  uint32_t* keys = on.scratch<uint32_t>(T);
  const int64_t blocks = ceil_div(T, kPiece * kWarps), sets = batch ? 1 : S;
  Cut* cuts = on.scratch<Cut>(sets);
  const int32_t* start = batch ? nullptr : sequence_start;
  on(keys_kernel, {blocks, kThreads}, scores, keys);
  if (sets > 1 || T <= kFew) {
    cut_sets(keys, start, cuts, sets, T, args.count, args.fraction, on);
  } else {
    cut_batch(keys, cuts, T, args.count, args.fraction, on);
  }
  on(write_kernel, {blocks, kThreads}, keys, start, cuts, kept, S, T);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kSelectTokens, select_tokens);

}  // namespace grpo::cuda
