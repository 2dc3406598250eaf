// The policy loss from log-probabilities. Token-level ratios take one pass over blocks of tokens. Ratios of sequences
// take one more before it, and one more after it where the gradient flows to the whole sequence; these passes run over
// pieces: at most kBlock tokens of one sequence, counted from its first token, so that what is summed within a
// sequence does not depend on where in the batch it stands, and a long one still spreads over all threads.
//
// 17 bytes are read and written per token with oldLogp, refLogp and a mask; two exponentials in double. 1048576 tokens,
// clip and k3, one core of an AMD EPYC (Zen 4): 7.2 ms with AVX-512, 10.8 with AVX2, 27 with SSE2. A loop over one
// token at a time with the C library's exp and expm1 took 28.
#include "loss/policy_loss.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <type_traits>

#include "parallel/parallel.h"
#include "loss/policy_loss_args.h"
#include "loss/policy_loss_range.h"

namespace grpo {
namespace {

#include "loss/token_loss.h"

constexpr int64_t kBlock = 4096;

struct Piece {
  int64_t begin, end, sequence;
  int64_t slot;  // a number of its own, below slots(T, S); those of a sequence follow one another
};

int64_t blocks(int64_t T) { return (T + kBlock - 1) / kBlock; }
int64_t slots(int64_t T, int64_t S) { return S + T / kBlock + 1; }
int64_t first_slot(const LossInputs& in, int64_t s) { return s + in.sequence_start[s] / kBlock; }

// Calls visit(block, begin, end) for every block of tokens, on all threads.
template <class Visit>
void for_blocks(const LossInputs& in, Visit&& visit) {
  parallel_for(blocks(in.T), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t block = begin; block < end; ++block)
      visit(block, block * kBlock, std::min(in.T, block * kBlock + kBlock));
  });
}

// Calls visit(block, piece) for every piece, on all threads; a piece belongs to the block that it begins in.
template <class Visit>
void for_pieces(const LossInputs& in, Visit&& visit) {
  for_blocks(in, [&](int64_t block, int64_t first, int64_t last) {
    for (int64_t s = sequence_of(in, first); s < in.S && in.sequence_start[s] < last; ++s) {
      const int64_t start = in.sequence_start[s], end = in.sequence_start[s + 1];
      const int64_t before = start < first ? (first - start + kBlock - 1) / kBlock : 0;
      const int64_t begin = start + before * kBlock;
      if (begin < std::min(end, last))
        visit(block, Piece{begin, std::min(begin + kBlock, end), s, first_slot(in, s) + before});
    }
  });
}

bool masked(const LossInputs& in, int64_t t) { return in.mask != nullptr && in.mask[t] == 0; }

// ---- sums -----------------------------------------------------------------------------------------------------------

constexpr int64_t kSumsDoubles = sizeof(RangeSums) / sizeof(double);

RangeSums no_sums() {
  RangeSums sums{};
  sums.stats[kStatRatioMin] = INFINITY, sums.stats[kStatRatioMax] = -INFINITY;
  return sums;
}

void merge(RangeSums& sums, const RangeSums& more) {
  const double low = std::min(sums.stats[kStatRatioMin], more.stats[kStatRatioMin]);
  const double high = std::max(sums.stats[kStatRatioMax], more.stats[kStatRatioMax]);
  sums.loss += more.loss;
  for (int32_t i = 0; i < kStatCount; ++i) sums.stats[i] += more.stats[i];
  sums.stats[kStatRatioMin] = low, sums.stats[kStatRatioMax] = high;
}

// ---- ratios of sequences --------------------------------------------------------------------------------------------

double sum_of_log_ratios(const LossInputs& in, const Piece& piece, const Objective& objective) {
  const double advantage = in.advantage == nullptr ? 0 : in.advantage[piece.sequence];
  const Interval<double> interval = clip_interval<double>(objective);
  double sum = 0;
  for (int64_t t = piece.begin; t < piece.end; ++t) {
    if (masked(in, t)) continue;
    const double log_ratio = static_cast<double>(in.logp[t]) - (in.old_logp == nullptr ? in.logp : in.old_logp)[t];
    sum += summed_log_ratio(objective, log_ratio, advantage, interval);
  }
  return sum;
}

// Of the numbers in the slots of each sequence: their sum for the product of ratios, else their mean over tokens.
void reduce_slots(const LossInputs& in, const Denominators& denominators, const double* slot, double* reduced,
                  const Objective& objective) {
  parallel_for(in.S, kBlock, [&](int64_t begin, int64_t end, int) {
    for (int64_t s = begin; s < end; ++s) {
      const int64_t first = first_slot(in, s), pieces = blocks(in.sequence_start[s + 1] - in.sequence_start[s]);
      double sum = 0;
      for (int64_t i = first; i < first + pieces; ++i) sum += slot[i];
      const bool product = objective.ratio == Ratio::kSequenceProduct || denominators.count[s] == 0;
      reduced[s] = product ? sum : sum / denominators.count[s];
    }
  });
}

}  // namespace

int64_t sequence_of(const LossInputs& in, int64_t t) {
  return std::upper_bound(in.sequence_start, in.sequence_start + in.S, static_cast<int32_t>(t)) - in.sequence_start - 1;
}

void prepare_denominators(const LossInputs& in, int32_t* count, Denominators& denominators,
                          const Objective& objective) {
  for (int64_t s = 0; s < in.S; ++s)
    count[s] = in.mask == nullptr ? in.sequence_start[s + 1] - in.sequence_start[s] : 0;
  if (in.mask != nullptr)
    for_pieces(in, [&](int64_t, const Piece& piece) {
      int32_t sum = 0;
      for (int64_t t = piece.begin; t < piece.end; ++t) sum += in.mask[t] != 0;
      // A long sequence's pieces are on several threads; whole numbers add up the same in any order.
      std::atomic_ref<int32_t>(count[piece.sequence]).fetch_add(sum, std::memory_order_relaxed);
    });
  int64_t tokens = 0, sequences = 0;
  for (int64_t s = 0; s < in.S; ++s) tokens += count[s], sequences += count[s] != 0;
  if (objective.count_empty) sequences = in.S;

  denominators = denominators_of(objective, count, tokens, sequences);
}

void token_gradient(const LossInputs& in, const Denominators& denominators, int64_t t, float* grad_logp,
                    float* grad_entropy, const Objective& objective) {
  RangeSums unused{};
  const TokenRange range{t, t + 1, sequence_of(in, t), 0, 0};
  range_loss(objective.surrogate)(in, denominators, range, grad_logp, grad_entropy, unused, objective);
}

int64_t policy_loss_scratch(int64_t T, int64_t S, const Objective& objective) {
  return blocks(T) * kSumsDoubles + (objective.ratio == Ratio::kToken ? 0 : slots(T, S) + 2 * S);
}

void policy_loss(const LossInputs& in, const Denominators& denominators, float* loss, float* grad_logp,
                 float* grad_entropy, double* stats, double* scratch, const Objective& objective) {
  RangeSums* sums = reinterpret_cast<RangeSums*>(scratch);  // [blocks]
  double* slot = scratch + blocks(in.T) * kSumsDoubles;     // [slots], a number for each piece
  double* log_ratio = slot + slots(in.T, in.S);             // [S]
  double* sequence_gradient = log_ratio + in.S;             // [S]
  const RangeLoss range_loss = grpo::range_loss(objective.surrogate);
  std::fill(sums, sums + blocks(in.T), no_sums());

  if (objective.ratio == Ratio::kToken) {
    for_blocks(in, [&](int64_t block, int64_t begin, int64_t end) {
      const TokenRange range{begin, end, sequence_of(in, begin), 0, 0};
      range_loss(in, denominators, range, grad_logp, grad_entropy, sums[block], objective);
    });
  } else {
    for_pieces(in, [&](int64_t, const Piece& piece) { slot[piece.slot] = sum_of_log_ratios(in, piece, objective); });
    reduce_slots(in, denominators, slot, log_ratio, objective);
    const bool own_gradient = objective.ratio == Ratio::kSequenceToken;
    for_pieces(in, [&](int64_t block, const Piece& piece) {
      const TokenRange range{piece.begin, piece.end, piece.sequence, log_ratio[piece.sequence], 0};
      RangeSums more;
      range_loss(in, denominators, range, own_gradient ? grad_logp : nullptr, grad_entropy, more, objective);
      slot[piece.slot] = more.grad_log_ratio;
      merge(sums[block], more);
    });
    if (!own_gradient && grad_logp != nullptr) {
      reduce_slots(in, denominators, slot, sequence_gradient, objective);
      for_pieces(in, [&](int64_t, const Piece& piece) {
        const int64_t s = piece.sequence;
        const TokenRange range{piece.begin, piece.end, s, log_ratio[s], sequence_gradient[s]};
        RangeSums unused;
        range_loss(in, denominators, range, grad_logp, nullptr, unused, objective);
      });
    }
  }

  RangeSums total = no_sums();
  for (int64_t block = 0; block < blocks(in.T); ++block) merge(total, sums[block]);
  total.stats[kStatTokens] = static_cast<double>(denominators.tokens);
  total.stats[kStatSequences] = static_cast<double>(denominators.sequences);
  const auto rounded = static_cast<float>(total.loss);
  if (total.stats[kStatNonFinite] == 0 && !std::isfinite(rounded)) total.stats[kStatNonFinite] = 1;  // only their sum
  if (loss != nullptr) *loss = rounded;
  if (stats != nullptr) std::copy(total.stats, total.stats + kStatCount, stats);
}

namespace {

using Args = grpo_policy_loss_args;

int run(const Args& args, const Axes& axes) {
  if (const int status = check_objective(args, args.entropy != nullptr)) return status;
  const Objective objective = objective_of(args);
  LossInputs inputs = loss_inputs(args, axes);
  inputs.logp = data<float>(args.logp), inputs.entropy = data<float>(args.entropy);

  Scratch<int32_t> count(inputs.S);
  Scratch<double> scratch(policy_loss_scratch(inputs.T, inputs.S, objective));
  Denominators denominators;
  prepare_denominators(inputs, count.data(), denominators, objective);
  policy_loss(inputs, denominators, data<float>(args.loss), data<float>(args.grad_logp),
              data<float>(args.grad_entropy), data<double>(args.stats), scratch.data(), objective);
  return GRPO_OK;
}

int path_of(const Args& args, const Axes& axes, Path& path) {
  if (const int status = check_objective(args, args.entropy != nullptr)) return status;
  return by_vectors(args, axes, path);
}

const grpo_field kFields[] = {
    GRPO_IN(logp, "f32[T]"),
    GRPO_POLICY_INPUTS,
    GRPO_IN(entropy, "f32[T] ?"),
    GRPO_RATIO_BOUNDS,
    GRPO_OUT(loss, "f32[1]"),
    GRPO_OUT(grad_logp, "f32[T]"),
    GRPO_OUT(grad_entropy, "f32[T] if entropy"),
    GRPO_OUT(stats, "f64[15]"),
    GRPO_OPT(grad_scale, "number = 1 f32"),
    GRPO_OBJECTIVE_FIELDS,
};
static_assert(kStatCount == 15);

}  // namespace

GRPO_OPERATION_BY(path_of, kPolicyLoss, policy_loss, kFields);

}  // namespace grpo
