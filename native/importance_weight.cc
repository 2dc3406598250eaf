// Importance weights of the trainer over the inference engine, and rejection of tokens or sequences. Ratios of tokens
// take one pass over blocks of tokens. What belongs to a sequence takes one more before it, over pieces of at most kPiece
// tokens, counted from its first; normalisation one after it. 14 bytes are read and written per token with a mask, and one
// exponential in double where a token's ratio is needed.
#include <algorithm>

#include "formulas/lane_sums.h"
#include "formulas/moments.h"
#include "interface/operation.h"
#include "loss/importance_range.h"

namespace grpo {
namespace {

#include "loss/importance_token.h"

constexpr int64_t kBlock = 1 << 14, kPiece = 1 << 16, kChunk = 2048;

// Of a piece, or of a sequence.
struct Sums {
  double log_ratio, divergence;
  float largest;  // divergence; NaN if any is
  int64_t count;
};
constexpr Sums kNoSums{0, 0, -INFINITY, 0};

struct OfSequence {
  double ratio;    // of `level`
  float rejected;  // the statistic of rejection
  bool gated;
};

float larger_or_nan(float a, float b) { return b > a || b != b ? b : a; }

bool kept(float statistic, const ImportanceOptions& o) {
  return !(statistic < o.reject_low) && !(statistic > o.reject_high);
}

const uint8_t* from(const uint8_t* mask, int64_t t) { return mask == nullptr ? nullptr : mask + t; }

// Calls then(number, s, begin, end) for each piece of each sequence, on all threads.
template <class F>
void for_pieces(const int32_t* start, const int64_t* first, int64_t S, F then) {
  parallel_for(first[S], 1, [&](int64_t begin, int64_t end, int) {
    int64_t s = std::upper_bound(first, first + S + 1, begin) - first - 1;
    for (int64_t piece = begin; piece < end; ++piece) {
      while (first[s + 1] <= piece) ++s;
      const int64_t t = start[s] + (piece - first[s]) * kPiece;
      then(piece, s, t, std::min<int64_t>(t + kPiece, start[s + 1]));
    }
  });
}

Sums sums_of_piece(const ImportanceInputs& in, int64_t begin, int64_t end, const ImportanceOptions& o) {
  LaneSums logs, divergences;
  Sums sums = kNoSums;
  float x[kChunk];
  for (int64_t t = begin; t < end; t += kChunk) {
    const int64_t n = std::min(kChunk, end - t);
    const uint8_t* mask = from(in.mask, t);
    for (int64_t i = 0; i < n; ++i) x[i] = in.old_logp[t + i] - in.rollout_logp[t + i];
    logs.add(x, mask, n);
    if (o.scope <= RejectionScope::kToken) continue;
    importance_lanes().estimates(in, t, n, o.estimate, x);
    divergences.add(x, mask, n);
    if (o.scope != RejectionScope::kMax) continue;
    for (int64_t i = 0; i < n; ++i)
      if (mask == nullptr || mask[i] != 0) sums.largest = larger_or_nan(sums.largest, x[i]);
  }
  return {logs.total(), divergences.total(), sums.largest, logs.count};
}

OfSequence of_sequence(const Sums& sums, const ImportanceOptions& o) {
  // Both sums are rounded to float32, as what sequence_sum returns.
  const auto average = [&](double total, bool mean) {
    return static_cast<float>(mean && sums.count > 0 ? total / static_cast<double>(sums.count) : total);
  };
  const auto ratio = [&](ImportanceLevel level) {
    const double log = average(sums.log_ratio, level == ImportanceLevel::kSequenceMean);
    return level > ImportanceLevel::kToken ? importance_ratio_of(log) : 1;
  };
  const float statistic = o.scope == RejectionScope::kMax
                              ? sums.largest
                              : average(sums.divergence, o.scope == RejectionScope::kMean);
  return {ratio(o.level), statistic, importance_gated(ratio(o.gate), o)};
}

void merge_stats(double* total, const double* more) {
  for (int32_t i = 0; i < kImportanceStatCount; ++i) {
    if (i == kLogpDifferenceMax || i == kImportanceRatioMax) total[i] = std::max(total[i], more[i]);
    else if (i == kImportanceRatioMin) total[i] = std::min(total[i], more[i]);
    else total[i] += more[i];
  }
}

void no_stats(double* stats) {
  std::fill(stats, stats + kImportanceStatCount, 0.0);
  stats[kImportanceRatioMin] = INFINITY, stats[kImportanceRatioMax] = -INFINITY;
}

// 1 = counts and is not rejected. Returns how many are.
int64_t reject_tokens(const ImportanceInputs& in, int64_t begin, int64_t end, const OfSequence& of,
                      uint8_t* out,  // [T], may be null
                      const ImportanceOptions& o) {
  const bool own = o.scope == RejectionScope::kToken, whole = own || o.scope == RejectionScope::kNull || kept(of.rejected, o);
  float x[kChunk];
  int64_t rejected = 0;
  for (int64_t t = begin; t < end; t += kChunk) {
    const int64_t n = std::min(kChunk, end - t);
    if (own) importance_lanes().estimates(in, t, n, o.estimate, x);
    for (int64_t i = 0; i < n; ++i) {
      const bool live = in.mask == nullptr || in.mask[t + i] != 0, keep = whole && (!own || kept(x[i], o));
      rejected += live && !keep;
      if (out != nullptr) out[t + i] = live && keep;
    }
  }
  return rejected;
}

// What weights are divided by: the mean over tokens, or over sequences of their means, of those that have tokens.
Moments mean_of_sequences(const float* weight, const uint8_t* mask, const int32_t* start, const int64_t* first, int64_t S) {
  Scratch<LaneSums> sums(first[S]);
  for_pieces(start, first, S, [&](int64_t piece, int64_t, int64_t begin, int64_t end) {
    sums[piece] = LaneSums();
    sums[piece].add(weight + begin, from(mask, begin), end - begin);
  });
  Scratch<float> mean(S);
  Scratch<uint8_t> counts(S);
  for (int64_t s = 0; s < S; ++s) {
    double total = 0;
    int64_t count = 0;
    for (int64_t piece = first[s]; piece < first[s + 1]; ++piece) total += sums[piece].total(), count += sums[piece].count;
    counts[s] = count > 0;
    mean[s] = static_cast<float>(count > 0 ? total / static_cast<double>(count) : 0);
  }
  Moments all;
  for (int64_t s = 0; s < S; s += kBlock)
    all = merge(all, moments_of(mean.data() + s, counts.data() + s, std::min(kBlock, S - s)));
  return all;
}

using Args = grpo_importance_weight_args;

int run(const Args& args, const Axes& axes) {
  if (const int status = check_importance(args)) return status;
  const ImportanceOptions o = importance_options(args);
  const ImportanceInputs in{data<float>(args.old_logp), data<float>(args.rollout_logp), data<uint8_t>(args.mask)};
  const int32_t* start = data<int32_t>(args.sequence_start);
  float* weight = data<float>(args.weight);
  uint8_t* out_mask = data<uint8_t>(args.out_mask);
  double* stats = data<double>(args.stats);
  const int64_t S = axes['S'], T = axes['T'], blocks = (T + kBlock - 1) / kBlock;

  Scratch<int64_t> first(S + 1);  // number of the first piece of each sequence
  first[0] = 0;
  for (int64_t s = 0; s < S; ++s) first[s + 1] = first[s] + (start[s + 1] - start[s] + kPiece - 1) / kPiece;
  const bool any_sequence = o.any_sequence();
  Scratch<OfSequence> sequence(any_sequence ? S : 0);
  if (any_sequence) {
    Scratch<Sums> sums(first[S]);
    for_pieces(start, first.data(), S, [&](int64_t piece, int64_t, int64_t begin, int64_t end) {
      sums[piece] = sums_of_piece(in, begin, end, o);
    });
    for (int64_t s = 0; s < S; ++s) {
      Sums whole = kNoSums;
      for (int64_t piece = first[s]; piece < first[s + 1]; ++piece)
        whole = {whole.log_ratio + sums[piece].log_ratio, whole.divergence + sums[piece].divergence,
                 larger_or_nan(whole.largest, sums[piece].largest), whole.count + sums[piece].count};
      sequence[s] = of_sequence(whole, o);
    }
  }

  const bool by_token = o.normalize && o.level == ImportanceLevel::kToken && weight != nullptr;
  Scratch<double> block_stats(blocks * kImportanceStatCount);
  Scratch<Moments> of_block(by_token ? blocks : 0);
  parallel_for(T, kBlock, [&](int64_t begin, int64_t end, int) {
    double* own = &block_stats[begin / kBlock * kImportanceStatCount];
    no_stats(own);
    int64_t s = any_sequence ? std::upper_bound(start, start + S + 1, begin) - start - 1 : 0;
    for (int64_t t = begin, next; t < end; t = next) {
      while (any_sequence && start[s + 1] <= t) ++s;
      next = any_sequence ? std::min<int64_t>(start[s + 1], end) : end;
      const OfSequence of = any_sequence ? sequence[s] : OfSequence{1, 0, false};
      if (weight != nullptr || stats != nullptr) {
        double more[kImportanceStatCount];
        importance_lanes().weights(in, {t, next, of.ratio, of.gated}, weight, more, o);
        merge_stats(own, more);
      }
      if (out_mask != nullptr || stats != nullptr)
        own[kRejected] += static_cast<double>(reject_tokens(in, t, next, of, out_mask, o));
    }
    if (by_token) of_block[begin / kBlock] = moments_of(weight + begin, from(in.mask, begin), end - begin);
  });
  if (stats != nullptr) {
    no_stats(stats);
    for (int64_t block = 0; block < blocks; ++block) merge_stats(stats, &block_stats[block * kImportanceStatCount]);
  }
  if (!o.normalize || weight == nullptr) return GRPO_OK;

  Moments all;
  if (!by_token) all = mean_of_sequences(weight, in.mask, start, first.data(), S);
  for (int64_t block = 0; by_token && block < blocks; ++block) all = merge(all, of_block[block]);
  if (all.mean == 0) return GRPO_OK;
  parallel_for(T, kBlock, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) weight[t] = static_cast<float>(weight[t] / all.mean);
  });
  return GRPO_OK;
}

int path_of(const Args& args, const Axes& axes, Path& path) {
  if (const int status = check_importance(args)) return status;
  return by_vectors(args, axes, path);
}

const grpo_field kFields[] = {
    GRPO_IN(old_logp, "f32[T]"),
    GRPO_IN(rollout_logp, "f32[T]"),
    GRPO_IN(sequence_start, "i32[S+1] offsets T"),
    GRPO_IN(mask, "u8[T] ?"),
    GRPO_OUT(weight, "f32[T]"),
    GRPO_OUT_AS(mask, out_mask, "u8[T]"),
    GRPO_OUT(stats, "f64[14]"),
    GRPO_OPT(level, "enum token|sequence|sequence_mean"),
    GRPO_OPT(outside, "enum bound|zero|none"),
    GRPO_OPT(low, "number? = null >= 0"),
    GRPO_OPT(high, "number? = 3 > 0"),
    GRPO_OPT(gate, "enum? token|sequence|sequence_mean"),
    GRPO_OPT(gate_low, "number? = null >= 0"),
    GRPO_OPT(gate_high, "number? = null > 0"),
    GRPO_OPT(normalize, "boolean = false"),
    GRPO_OPT(reject,
             "enum? token_k1|token_k2|token_k3|seq_sum_k1|seq_sum_k2|seq_sum_k3|"
             "seq_mean_k1|seq_mean_k2|seq_mean_k3|seq_max_k2|seq_max_k3"),
    GRPO_OPT(reject_low, "number? = null >= 0"),
    GRPO_OPT(reject_high, "number? = null > 0"),
};
static_assert(kImportanceStatCount == 14);

}  // namespace

GRPO_OPERATION_BY(path_of, kImportanceWeight, importance_weight, kFields);

}  // namespace grpo
