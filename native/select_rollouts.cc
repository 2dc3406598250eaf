// Which rollouts of a group, or of the whole batch, to train on. A subset is described by two thresholds: everything
// above the upper one and below the lower one is kept, and of the values at a threshold the first few. So values are
// partitioned and not sorted, but for the rule that needs their order. O(n), with max_variance O(n + k log k).
#include <algorithm>

#include "selection/selection.h"

namespace grpo {
namespace {

enum Scope : int32_t { kGroup, kBatch };
enum Rule : int32_t { kMaxVariance, kTop, kTopBottom };

// Of the largest values `above` are kept, and of the smallest `below`; the thresholds are the last of each.
struct Cut {
  int64_t above = 0, below = 0;
  float upper = INFINITY, lower = -INFINITY;
};

// How many of the k values are the largest ones, so that their variance is largest. Exchanging the largest of the
// small ones, s, for the next of the large ones, l, changes k times the sum of squared distances from the mean by
//   (l - s) * (k (l + s) - 2 sum - (l - s)),   sum = of the k values before the exchange.
// Only the sign of the second factor matters. It is linear in the scores, so nothing cancels that float32 scores hold,
// and sets of equal variance compare equal: squares would decide between them by rounding.
int64_t largest_of_max_variance(const float* values,  // [n], the first k and the last k in ascending order
                                int64_t n, int64_t k) {
  const auto at = [&](int64_t i) { return wide_score(values[i]); };
  WideScore sum;
  for (int64_t i = 0; i < k; ++i) sum = sum + at(i);
  int64_t best = 0;
  for (int64_t large = 0; large < k; ++large) {
    const WideScore l = at(n - 1 - large), s = at(k - 1 - large);
    if (values[n - 1 - large] > values[k - 1 - large] && exchange_gain(l, s, sum, k) > 0) best = large + 1;
    sum = sum + (l - s);
  }
  return best;
}

// Leaves the k smallest values in ascending order at the front and the k largest at the back.
void sort_ends(float* values,  // [n]
               int64_t n, int64_t k) {
  if (2 * k < n) {
    std::nth_element(values, values + k, values + n);
    std::nth_element(values + k, values + n - k, values + n);
    std::sort(values, values + k);
    std::sort(values + n - k, values + n);
  } else {
    std::sort(values, values + n);
  }
}

Cut find_cut(float* values,  // [n], no NaN; reordered
             int64_t n, int64_t k, int32_t rule) {
  Cut cut;
  if (rule == kMaxVariance) {
    sort_ends(values, n, k);
    cut.above = largest_of_max_variance(values, n, k);
  } else {
    cut.above = rule == kTop ? k : k - k / 2;
  }
  cut.below = k - cut.above;
  if (cut.above > 0) {
    if (rule != kMaxVariance) std::nth_element(values, values + n - cut.above, values + n);
    cut.upper = values[n - cut.above];
  }
  if (cut.below > 0) {
    // What lies before the upper threshold is in place already.
    if (rule != kMaxVariance) std::nth_element(values, values + cut.below - 1, values + n - cut.above);
    cut.lower = values[cut.below - 1];
  }
  return cut;
}

void select(const float* score,   // [n]
            const uint8_t* mask,  // [n], may be null
            float* values,        // [n], scratch
            uint8_t* kept,        // [n]
            int64_t n, int64_t count, double fraction, int32_t rule) {
  int64_t unmasked = 0, candidates = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (mask != nullptr && mask[i] == 0) continue;
    ++unmasked;
    // Read once: a NaN that another thread writes in between would lead the partition out of the array.
    const float value = read_once(score + i);
    if (!std::isnan(value)) values[candidates++] = value;
  }
  const int64_t k = std::min(candidates, selected_count(unmasked, count, fraction));
  const Cut cut = find_cut(values, candidates, k, rule);

  // Places at the thresholds that those beyond them leave, for the lowest indices. Where the thresholds meet, all
  // places are for that one value.
  int64_t at_upper = cut.above, at_lower = cut.below;
  for (int64_t i = 0; i < candidates; ++i) {
    at_upper -= cut.above > 0 && values[i] > cut.upper;
    at_lower -= cut.below > 0 && values[i] < cut.lower;
  }
  if (cut.above > 0 && cut.below > 0 && cut.upper == cut.lower) at_upper += at_lower;
  for (int64_t i = 0; i < n; ++i) {
    kept[i] = 0;
    if ((mask != nullptr && mask[i] == 0) || std::isnan(score[i])) continue;
    if (cut.above > 0 && score[i] >= cut.upper) kept[i] = score[i] > cut.upper || at_upper-- > 0;
    else if (cut.below > 0 && score[i] <= cut.lower) kept[i] = score[i] < cut.lower || at_lower-- > 0;
  }
}

using Args = grpo_select_rollouts_args;

int run(const Args& args, const Axes& axes) {
  if (int status = check_selection(args.count, args.fraction)) return status;
  if (args.out_mask == nullptr) return GRPO_OK;
  const int32_t whole[] = {0, static_cast<int32_t>(axes['N'])};
  const bool batch = args.scope == kBatch;
  const int32_t* start = batch ? whole : data<int32_t>(args.group_start);
  const int64_t sets = batch ? 1 : axes['G'];
  const float* score = data<float>(args.score);
  const uint8_t* mask = data<uint8_t>(args.mask);
  uint8_t* kept = data<uint8_t>(args.out_mask);
  int64_t longest = 0;
  for (int64_t g = 0; g < sets; ++g) longest = std::max<int64_t>(longest, start[g + 1] - start[g]);
  Scratch<float> values(longest * (batch ? 1 : thread_count()));
  parallel_for(sets, 256, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t g = begin; g < end; ++g) {
      const int64_t first = start[g];
      select(score + first, mask == nullptr ? nullptr : mask + first, &values[worker * longest], kept + first,
             start[g + 1] - first, args.count, args.fraction, args.rule);
    }
  });
  return GRPO_OK;
}

const grpo_field kFields[] = {
    GRPO_IN(score, "f32[N]"),
    GRPO_IN(group_start, "i32[G+1] offsets N"),
    GRPO_IN(mask, "u8[N] ?"),
    GRPO_OUT_AS(mask, out_mask, "u8[N]"),
    GRPO_OPT(count, "integer? = null >= 0"),
    GRPO_OPT(fraction, "number? = null 0..1"),
    GRPO_OPT(scope, "enum group|batch"),
    GRPO_OPT(rule, "enum max_variance|top|top_bottom"),
};

}  // namespace

GRPO_OPERATION(kSelectRollouts, select_rollouts, kFields);

}  // namespace grpo
