// Which tokens to train on: those with the highest |advantage| * entropy.
//
// A score becomes a 32-bit key of the same order, kept in scratch memory: 4 to 9 bytes read per token and 4 written.
// What is kept is described by the key of the last token that is, and by its place, since of equal keys the first win;
// a last launch writes the mask from that: 4 bytes read per token, 1 written.
// - Few tokens, or each of several sequences for itself: one block per set finds the key, 8 bits at a time, of up to
//   4,096 tokens in shared memory.
// - A batch, or one sequence: all blocks find it, 11, 11 and 10 bits at a time (token_digits.cuh). The first digits are
//   counted while the keys are formed. Then the keys are read once, 16 of a thread at a time, and those that have the
//   first digit are listed: a float's exponent and two bits, a twentieth of them or so. The rest of the search, ties
//   included, looks at the list alone.
// So keys are read twice, and 32 tokens of a batch take a warp some 90 instructions (sm_90a). Counts are integers, so
// that neither their order nor the number of blocks shows in the result. How many are kept is computed on the device.
#include "launch/operation.cuh"
#include "selection/token_cuts.cuh"

namespace grpo::cuda {
namespace {

enum Scope : int32_t { kBatch, kSequence };
enum Rule : int32_t { kAdvantageEntropy, kEntropy, kAdvantage };

constexpr int kThreads = kDigitThreads, kWarps = kThreads / kWarp;
constexpr int kGroups = 4;  // of 4 tokens, of a thread
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

// Of each warp in turn, kPiece tokens, of which the loads are under way together.
// Grid: ceil(T / 2,048), at most 8 per multiprocessor. Block: 256. Shared: 8,304. Work: 4 to 9 bytes read per token, 4
// written. Bound: memory.
template <bool kBySequence>
__global__ void __launch_bounds__(kThreads, 4)
    keys_kernel(Scores scores,
                uint32_t* keys,      // [T], and masked ones up to a multiple of 4
                TokenDigits* state,  // null: digits are not counted
                int64_t count, double fraction) {
  DYN_SMEM(DigitsShared, shared);
  if (state != nullptr) clear_bins(shared);
  const int64_t all = ceil_div(scores.T, 4) * 4;
  uint32_t unmasked = 0, candidates = 0;
  bool any = false;
  for (int64_t begin = (int64_t{blockIdx.x} * kWarps + warp_index()) * kPiece; begin < all;
       begin += int64_t{gridDim.x} * kWarps * kPiece) {
    const int64_t end = begin + kPiece < scores.T ? begin + kPiece : scores.T, first = begin + lane_index();
    const Sequences sequences(scores.sequence_start, kBySequence ? scores.S : 1, begin, end);
    // Of the lane's first token on. Tokens of the warp are counted in 32 bits.
    const int n = static_cast<int>(end - first), written = static_cast<int>(all - first);
    const float *own_entropy = scores.entropy + first, *own_advantage = scores.token_advantage + first;
    const uint8_t* own_mask = scores.mask + first;
    float entropy[kPer], advantage[kPer];
    bool live[kPer];
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      const int at = i * kWarp;
      live[i] = at < n && (scores.mask == nullptr || own_mask[at] != 0);
      entropy[i] = at < n && scores.entropy != nullptr ? own_entropy[at] : 1;
      advantage[i] = at < n && scores.token_advantage != nullptr ? own_advantage[at] : 1;
    }
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      if (kBySequence && live[i]) {
        const int64_t s = sequences.of(scores.sequence_start, scores.T, first + i * kWarp);
        live[i] = s >= 0;
        advantage[i] = s < 0 ? 0 : scores.advantage[s];
      }
      // Rounded to float32, as a caller's own product would be.
      const uint32_t key = live[i] ? key_of(__fmul_rn(fabsf(advantage[i]), entropy[i])) : kMaskedKey;
      if (i * kWarp < written) keys[first + i * kWarp] = key;
      unmasked += key != kMaskedKey;
      candidates += key >= kLowestKey;
      any |= key >= kLowestKey && key != kZeroKey;
      if (state != nullptr && key >= kLowestKey) count_key(key, 0, shared);
    }
  }
  if (state == nullptr) return;
  unmasked = block_sum(unmasked, shared.counts);
  candidates = block_sum(candidates, shared.counts);
  any = __syncthreads_or(any) != 0;
  if (threadIdx.x == 0) {
    atomicAdd(&state->unmasked, unmasked);
    atomicAdd(&state->candidates, candidates);
    if (any) atomicOr(&state->any, 1u);
  }
  find_digit_of_all(state, 0, shared, [&] {
    if (state->any == 0) return uint32_t{0};
    const int64_t wanted = selected_count(state->unmasked, count, fraction), most = state->candidates;
    return static_cast<uint32_t>(wanted < most ? wanted : most);
  });
}

// ---- the mask -------------------------------------------------------------------------------------------------------

__device__ __forceinline__ bool kept_by(const Cut& cut, uint32_t key, int32_t t) {
  return key > cut.key || (key == cut.key && t <= cut.last);
}

// Grid: ceil(T / 2,048). Block: 256. Shared: 0. Work: 5 bytes per token. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    write_kernel(const uint32_t* keys,           // [T]
                 const int32_t* sequence_start,  // [S+1]
                 const Cut* cuts,                // [S]
                 uint8_t* kept,                  // [T]
                 int64_t S, int64_t T) {
  const int64_t begin = (int64_t{blockIdx.x} * kWarps + warp_index()) * kPiece;
  if (begin >= T) return;
  const int64_t end = begin + kPiece < T ? begin + kPiece : T;
  const Sequences sequences(sequence_start, S, begin, end);
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const int64_t t = begin + i * kWarp + lane_index();
    if (t >= end) continue;
    const int64_t s = sequences.of(sequence_start, T, t);
    kept[t] = kept_by(s < 0 ? nothing() : cuts[s], keys[t], static_cast<int32_t>(t));
  }
}

// Of all tokens as one set: 4 neighbouring ones of a thread, whose masks are one word where the address allows.
// Grid: ceil(T / 4,096). Block: 256. Shared: 0. Work: 5 bytes per token. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    write_batch_kernel(const uint32_t* keys,  // [T, and masked ones up to a multiple of 4]
                       const Cut* cut_of_all,  // [1]
                       uint8_t* kept,          // [T]
                       int64_t T) {
  const Cut cut = *cut_of_all;
  const bool aligned = reinterpret_cast<uintptr_t>(kept) % 4 == 0;
#pragma unroll
  for (int i = 0; i < kGroups; ++i) {
    const int64_t t = ((int64_t{blockIdx.x} * kGroups + i) * kThreads + threadIdx.x) * 4;
    if (t >= T) return;
    const Words4 words = *reinterpret_cast<const Words4*>(keys + t);
    const uint32_t key[4] = {words.x, words.y, words.z, words.w};
    uint32_t masks = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) masks |= uint32_t{kept_by(cut, key[j], static_cast<int32_t>(t) + j)} << 8 * j;
    if (aligned && t + 4 <= T) {
      *reinterpret_cast<uint32_t*>(kept + t) = masks;
    } else {
#pragma unroll 1
      for (int j = 0; j < 4 && t + j < T; ++j) kept[t + j] = static_cast<uint8_t>(masks >> 8 * j);
    }
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
  uint32_t* keys = on.scratch<uint32_t>(ceil_div(T, 4) * 4);
  const int64_t blocks = ceil_div(T, kPiece * kWarps), most = int64_t{on.device.multiprocessors} * 8;
  const int64_t sets = batch ? 1 : S;
  const bool by_all = sets == 1 && T > kFew;
  Cut* cuts = on.scratch<Cut>(sets);
  TokenDigits* state = by_all ? on.scratch<TokenDigits>(1) : nullptr;
  if (by_all) on.zero(state, sizeof *state);
  on(scores.advantage != nullptr ? keys_kernel<true> : keys_kernel<false>,
     {blocks < most ? blocks : most, kThreads, sizeof(DigitsShared)}, scores, keys, state, args.count, args.fraction);
  if (by_all) cut_batch(keys, state, cuts, T, on);
  else cut_sets(keys, batch ? nullptr : sequence_start, cuts, sets, T, args.count, args.fraction, on);
  if (batch)
    on(write_batch_kernel, {ceil_div(T, kGroups * 4 * kThreads), kThreads}, keys, cuts, kept, T);
  else
    on(write_kernel, {blocks, kThreads}, keys, sequence_start, cuts, kept, S, T);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kSelectTokens, select_tokens);

}  // namespace grpo::cuda
