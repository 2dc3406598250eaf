// Which tokens to train on: those with the highest |advantage| * entropy. A score becomes a 32-bit key of the same
// order, and the key of the last token that is kept is found by counting: once by the upper 16 bits of the keys, and
// once, among those that share the right ones, by the lower 16. Keys are computed again in each pass instead of being
// stored, since the passes wait for memory: three times 9 bytes per token (5 with an advantage per sequence), and 1
// byte written.
#include <bit>
#include <functional>

#include "selection/selection.h"

namespace grpo {
namespace {

enum Scope : int32_t { kBatch, kSequence };
enum Rule : int32_t { kAdvantageEntropy, kEntropy, kAdvantage };

constexpr int64_t kBlock = 1 << 13;  // tokens whose keys are in flight: 32 KiB per worker
constexpr int64_t kBins = 1 << 16;

struct Scores {
  const float* advantage;         // [S], may be null
  const float* token_advantage;   // [T], may be null
  const float* entropy;           // [T], null for rule advantage
  const int32_t* sequence_start;  // [S + 1]
  const uint8_t* mask;            // [T], may be null
  int64_t S;
};

// Keys compare as scores do. 0 stands for tokens that are never kept; the keys of numbers lie above it.
constexpr uint32_t kZeroScore = 0x80000000u;

inline uint32_t key_of(float score) {
  const uint32_t bits = std::bit_cast<uint32_t>(score + 0.0f);  // -0 becomes 0: the two are equal
  const uint32_t key = bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
  return key & (0u - ((bits & 0x7fffffffu) <= 0x7f800000u));  // NaN; a comparison of floats is 3 times slower here
}

// The product is rounded to float32, as a caller's own would be.
template <class Advantage>
void keys_of(Advantage advantage, const Scores& scores, int64_t begin, int64_t end, uint32_t* keys) {
  const float* entropy = scores.entropy;
  if (entropy == nullptr) {
    for (int64_t t = begin; t < end; ++t) keys[t - begin] = key_of(std::fabs(advantage(t)));
  } else {
    for (int64_t t = begin; t < end; ++t) keys[t - begin] = key_of(std::fabs(advantage(t)) * entropy[t]);
  }
}

// The keys of tokens [begin, end): the only place that knows what a score is.
void keys_of(const Scores& scores, int64_t begin, int64_t end, uint32_t* keys) {
  if (scores.token_advantage != nullptr) {
    keys_of([&](int64_t t) { return scores.token_advantage[t]; }, scores, begin, end, keys);
  } else if (scores.advantage != nullptr) {
    const int32_t* start = scores.sequence_start;
    int64_t s = std::upper_bound(start, start + scores.S + 1, static_cast<int32_t>(begin)) - start - 1;
    for (int64_t t = begin, stop; t < end; t = stop, ++s) {
      stop = std::min<int64_t>(end, start[s + 1]);
      const float a = scores.advantage[s];
      keys_of([a](int64_t) { return a; }, scores, t, stop, keys + (t - begin));
    }
  } else {
    keys_of([](int64_t) { return 1.0f; }, scores, begin, end, keys);
  }
  if (scores.mask != nullptr)
    for (int64_t t = begin; t < end; ++t) keys[t - begin] &= 0u - (scores.mask[t] != 0);
}

int64_t unmasked_tokens(const uint8_t* mask, int64_t begin, int64_t end) {
  if (mask == nullptr) return end - begin;
  int64_t count = 0;
  for (int64_t t = begin; t < end; ++t) count += mask[t] != 0;
  return count;
}

// Tokens with a greater key are kept, and of those with this one the first `places`.
struct Cut {
  uint32_t key;
  int64_t places;
};
constexpr Cut kNothing = {UINT32_MAX, 0};

// One sequence, or a batch that is not worth the threads.
void select_few(const Scores& scores, int64_t begin, int64_t end, int64_t count, double fraction,
                uint32_t* keys,    // [end - begin], scratch
                uint32_t* sorted,  // [end - begin], scratch
                uint8_t* kept) {   // [T]
  keys_of(scores, begin, end, keys);
  int64_t candidates = 0;
  bool all_zero = true;
  for (int64_t i = 0; i < end - begin; ++i) {
    if (keys[i] == 0) continue;
    sorted[candidates++] = keys[i];
    all_zero = all_zero && keys[i] == kZeroScore;
  }
  const int64_t k = std::min(candidates, selected_count(unmasked_tokens(scores.mask, begin, end), count, fraction));
  Cut cut = kNothing;
  if (k > 0 && !all_zero) {
    std::nth_element(sorted, sorted + k - 1, sorted + candidates, std::greater<>());
    cut.key = sorted[k - 1];
    cut.places = k - std::count_if(sorted, sorted + k, [&](uint32_t key) { return key > cut.key; });
  }
  for (int64_t t = begin; t < end; ++t) {
    const uint32_t key = keys[t - begin];
    kept[t] = key > cut.key || (key == cut.key && cut.places-- > 0);
  }
}

// The bin in which the k-th largest falls when the highest bins are emptied first; k becomes its rank inside the bin.
uint32_t bin_of_rank(const int64_t* bins,  // [kBins]
                     int64_t& k) {
  int64_t bin = kBins - 1;
  for (; bin > 0 && bins[bin] < k; --bin) k -= bins[bin];
  return static_cast<uint32_t>(bin);
}

// Calls body(keys, begin, end, worker) for all blocks of tokens.
template <class F>
void for_blocks(const Scores& scores, int64_t T,
                uint32_t* keys,  // [kBlock] for each worker
                F body) {
  parallel_for(T, kBlock, [&](int64_t begin, int64_t end, int worker) {
    keys_of(scores, begin, end, keys + worker * kBlock);
    body(keys + worker * kBlock, begin, end, worker);
  });
}

// The sum of the workers' counts: whole numbers, so that it does not matter who counted what.
void sum_counts(const uint32_t* counts,  // [kBins] for each worker
                int64_t* bins,           // [kBins]
                int workers) {
  std::fill(bins, bins + kBins, 0);
  for (int worker = 0; worker < workers; ++worker)
    for (int64_t bin = 0; bin < kBins; ++bin) bins[bin] += counts[worker * kBins + bin];
}

void select_batch(const Scores& scores, uint8_t* kept,  // [T]
                  int64_t T, int64_t count, double fraction) {
  const int workers = thread_count();
  const int64_t blocks = (T + kBlock - 1) / kBlock;
  Scratch<uint32_t> keys(kBlock * workers), counts(kBins * workers);
  Scratch<int64_t> bins(kBins), unmasked(blocks), nonzero(blocks), equal(blocks);

  std::fill(&counts[0], &counts[0] + kBins * workers, 0);
  for_blocks(scores, T, keys.data(), [&](const uint32_t* key, int64_t begin, int64_t end, int worker) {
    uint32_t* mine = &counts[worker * kBins];
    uint32_t any = 0;
    for (int64_t i = 0; i < end - begin; ++i) ++mine[key[i] >> 16], any |= key[i] & ~kZeroScore;
    nonzero[begin / kBlock] = any != 0;
    unmasked[begin / kBlock] = unmasked_tokens(scores.mask, begin, end);
  });
  if (cancelled()) return;
  sum_counts(counts.data(), bins.data(), workers);
  int64_t n = 0, all_zero = true;
  for (int64_t block = 0; block < blocks; ++block) n += unmasked[block], all_zero = all_zero && nonzero[block] == 0;
  int64_t k = std::min(T - bins[0], selected_count(n, count, fraction));
  if (k == 0 || all_zero) return static_cast<void>(std::fill(kept, kept + T, 0));

  const uint32_t upper = bin_of_rank(bins.data(), k);
  std::fill(&counts[0], &counts[0] + kBins * workers, 0);
  for_blocks(scores, T, keys.data(), [&](const uint32_t* key, int64_t begin, int64_t end, int worker) {
    uint32_t* mine = &counts[worker * kBins];
    for (int64_t i = 0; i < end - begin; ++i)
      if (key[i] >> 16 == upper) ++mine[key[i] & 0xffff];
  });
  if (cancelled()) return;
  sum_counts(counts.data(), bins.data(), workers);
  const uint32_t lower = bin_of_rank(bins.data(), k), last = upper << 16 | lower;

  for_blocks(scores, T, keys.data(), [&](const uint32_t* key, int64_t begin, int64_t end, int) {
    int64_t same = 0;
    for (int64_t i = 0; i < end - begin; ++i) kept[begin + i] = key[i] >= last, same += key[i] == last;
    equal[begin / kBlock] = same;
  });
  if (bins[lower] == k || cancelled()) return;
  // More tokens have the last key than there are places: the first k keep them. equal[] becomes the places of a block.
  for (int64_t block = 0; block < blocks; ++block) k -= equal[block] = std::min(k, equal[block]);
  for_blocks(scores, T, keys.data(), [&](const uint32_t* key, int64_t begin, int64_t end, int) {
    int64_t places = equal[begin / kBlock];
    for (int64_t i = 0; i < end - begin; ++i)
      if (key[i] == last) kept[begin + i] = places-- > 0;
  });
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

int run(const Args& args, const Axes& axes) {
  if (int status = check_inputs(args)) return status;
  if (args.out_mask == nullptr) return GRPO_OK;
  const bool by_advantage = args.rule != kEntropy;
  const Scores scores{by_advantage ? data<float>(args.advantage) : nullptr,
                      by_advantage ? data<float>(args.token_advantage) : nullptr,
                      args.rule == kAdvantage ? nullptr : data<float>(args.entropy),
                      data<int32_t>(args.sequence_start),
                      data<uint8_t>(args.mask),
                      axes['S']};
  const int64_t T = axes['T'];
  uint8_t* kept = data<uint8_t>(args.out_mask);
  if (args.scope == kBatch && T > 2 * kBlock) {
    select_batch(scores, kept, T, args.count, args.fraction);
    return GRPO_OK;
  }
  const int32_t whole[] = {0, static_cast<int32_t>(T)};
  const int32_t* start = args.scope == kBatch ? whole : scores.sequence_start;
  const int64_t sets = args.scope == kBatch ? 1 : scores.S;
  int64_t longest = 0;
  for (int64_t s = 0; s < sets; ++s) longest = std::max<int64_t>(longest, start[s + 1] - start[s]);
  Scratch<uint32_t> keys(2 * longest * (sets > 1 ? thread_count() : 1));
  parallel_for(sets, 8, [&](int64_t begin, int64_t end, int worker) {
    uint32_t* mine = &keys[2 * longest * worker];
    for (int64_t s = begin; s < end; ++s)
      select_few(scores, start[s], start[s + 1], args.count, args.fraction, mine, mine + longest, kept);
  });
  return GRPO_OK;
}

const grpo_field kFields[] = {
    GRPO_IN(advantage, "f32[S] ?"),
    GRPO_IN(token_advantage, "f32[T] ?"),
    GRPO_IN(entropy, "f32[T] ?"),
    GRPO_IN(sequence_start, "i32[S+1] offsets T"),
    GRPO_IN(mask, "u8[T] ?"),
    GRPO_OUT_AS(mask, out_mask, "u8[T]"),
    GRPO_OPT(count, "integer? = null >= 0"),
    GRPO_OPT(fraction, "number? = null 0..1"),
    GRPO_OPT(scope, "enum batch|sequence"),
    GRPO_OPT(rule, "enum advantage_entropy|entropy|advantage"),
};

}  // namespace

GRPO_OPERATION(kSelectTokens, select_tokens, kFields);

}  // namespace grpo
