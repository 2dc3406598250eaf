// The softmax of attention tiles, forward and backward: a lane per query, so that nothing is ever summed across lanes.
// Included by the files that choose the instruction set, see simd.h.

// kLanes queries or, with kPartial, the first `count` of them.
template <bool kPartial>
GRPO_INLINE F32 load_queries(const float* p, int count) {
  return kPartial ? load_first(p, count) : load_vector<F32>(p);
}

template <bool kPartial>
GRPO_INLINE void store_queries(float* p, F32 v, int count) {
  if (kPartial) return store_first(p, v, count);
  store_vector(p, v);
}

// The same queries at kWide keys, `ld` apart.
template <bool kPartial>
GRPO_INLINE Wide load_keys(const float* p, int64_t ld, int count) {
  Wide result;
#pragma GCC unroll 4
  for (int v = 0; v < kWide; ++v) result.v[v] = load_queries<kPartial>(p + v * ld, count);
  return result;
}

template <bool kPartial>
GRPO_INLINE void store_keys(float* p, int64_t ld, const Wide& x, int count) {
#pragma GCC unroll 4
  for (int v = 0; v < kWide; ++v) store_queries<kPartial>(p + v * ld, x.v[v], count);
}

// Which keys of a tile each of some queries sees: none of them those before `any` and from `any_end` on, all of them
// those of [every, every_end).
struct Visible {
  I32 begin, end;
  int64_t any, every, every_end, any_end;
};

GRPO_INLINE Visible visible_keys(const KeyRanges& seen, int64_t first, int count, int64_t keys) {
  if (seen.end == nullptr) return {I32{}, I32{}, 0, 0, keys, keys};
  Visible result = {I32{}, I32{}, keys, 0, keys, 0};
  __builtin_memcpy(&result.begin, seen.begin + first, count * sizeof(int32_t));
  __builtin_memcpy(&result.end, seen.end + first, count * sizeof(int32_t));
  for (int64_t q = first; q < first + count; ++q) {
    const int64_t begin = seen.begin[q], end = seen.end[q];
    if (begin < result.any) result.any = begin;
    if (begin > result.every) result.every = begin;
    if (end < result.every_end) result.every_end = end;
    if (end > result.any_end) result.any_end = end;
  }
  if (result.any_end < result.any) result.any_end = result.any;
  if (result.every > result.any_end) result.every = result.any_end;
  if (result.every_end < result.every) result.every_end = result.every;
  return result;
}

GRPO_INLINE Mask sees(const Visible& visible, int64_t key) {
  const int32_t at = static_cast<int32_t>(key);
  return static_cast<Mask>(above(visible.end, at) & ~above(visible.begin, at));
}

GRPO_INLINE bool all_see(const Visible& visible, int64_t key) {
  return key >= visible.every && key < visible.every_end;
}

// Of each query where the keys are hidden from all of them.
template <bool kPartial>
GRPO_INLINE void hide_rest(float* column, int64_t ld, const Visible& seen, int64_t keys, int count) {
  for (int64_t j = 0; j < seen.any; ++j) store_queries<kPartial>(column + j * ld, F32{}, count);
  for (int64_t j = seen.any_end; j < keys; ++j) store_queries<kPartial>(column + j * ld, F32{}, count);
}

// Scores, times a scale and soft-capped where `cap` is not 0, become exponentials. Capped ones are kept between the two
// passes, others scaled again: rounded alike, so that a query with one key has p = 1 exactly.
template <bool kPartial, bool kCapped>
static void softmax_queries(float* scores, int64_t lds, int64_t keys, int64_t first, int count, const KeyRanges& ranges,
                            float scale, double cap, float* max, float* sum, float* rescale) {
  const Visible seen = visible_keys(ranges, first, count, keys);
  const Tangent tangent = tangent_over(kCapped ? cap : 1);
  const F32 row_cap = broadcast(static_cast<float>(cap));
  const F32 row_scale = broadcast(scale);
  float* const column = scores + first;
  const F32 old_max = load_queries<kPartial>(max + first, count);
  F32 most = old_max;
  for (int64_t j = seen.any; j < seen.any_end; ++j) {
    F32 score = load_queries<kPartial>(column + j * lds, count) * row_scale;
    if (kCapped) {
      score = row_cap * hyperbolic_tangent(score, tangent);
      store_queries<kPartial>(column + j * lds, score, count);
    }
    most = larger(all_see(seen, j) ? score : select(sees(seen, j), score, most), most);
  }
  // While a query has seen no key its maximum is -inf; measured from 0 its exponentials are 0 instead of NaN.
  const F32 origin = select(equal(most, broadcast(-kInfinity)), broadcast(0.0f), most);
  const F32 factor = kCapped ? broadcast(1.0f) : row_scale;
  F32 added = {};
  int64_t j = seen.any;
  while (j < seen.any_end) {
    if (j >= seen.every && j + kWide <= seen.every_end) {
      const Wide score = rounded_product(load_keys<kPartial>(column + j * lds, lds, count), factor);
      const Wide p = exponential_below_zero(score - origin);
      store_keys<kPartial>(column + j * lds, lds, p, count);
#pragma GCC unroll 4
      for (int v = 0; v < kWide; ++v) added += p.v[v];
      j += kWide;
      continue;
    }
    const F32 score = rounded_product(load_queries<kPartial>(column + j * lds, count), factor);
    F32 p = exponential_below_zero(score - origin);
    if (!all_see(seen, j)) p = zero_unless(sees(seen, j), p);
    store_queries<kPartial>(column + j * lds, p, count);
    added += p;
    ++j;
  }
  hide_rest<kPartial>(column, lds, seen, keys, count);
  const F32 before = select(equal(old_max, most), broadcast(1.0f), exponential_below_zero(old_max - origin));
  store_queries<kPartial>(max + first, most, count);
  store_queries<kPartial>(sum + first, multiply_add(load_queries<kPartial>(sum + first, count), before, added), count);
  store_queries<kPartial>(rescale + first, before, count);
}

template <bool kCapped>
static void softmax_columns(float* scores, int64_t lds, int64_t keys, int64_t queries, const KeyRanges& seen,
                            float scale, double cap, float* max, float* sum, float* rescale) {
  int64_t first = 0;
  for (; first + kLanes <= queries; first += kLanes)
    softmax_queries<false, kCapped>(scores, lds, keys, first, kLanes, seen, scale, cap, max, sum, rescale);
  if (first < queries) {
    const int count = static_cast<int>(queries - first);
    softmax_queries<true, kCapped>(scores, lds, keys, first, count, seen, scale, cap, max, sum, rescale);
  }
}

static void softmax_tile(float* scores, int64_t lds, int64_t keys, int64_t queries, const KeyRanges& seen, float scale,
                         double cap, float* max, float* sum, float* rescale) {
  if (cap == 0) return softmax_columns<false>(scores, lds, keys, queries, seen, scale, cap, max, sum, rescale);
  softmax_columns<true>(scores, lds, keys, queries, seen, scale, cap, max, sum, rescale);
}

template <bool kPartial, bool kCapped>
static void softmax_queries_backward(float* scores, float* grad_scores, int64_t ld, int64_t keys, int64_t first,
                                     int count, const KeyRanges& ranges, double cap, const float* logsumexp,
                                     const float* delta, float scale) {
  const Visible seen = visible_keys(ranges, first, count, keys);
  const Tangent tangent = tangent_over(kCapped ? cap : 1);
  const F32 row_cap = broadcast(static_cast<float>(cap));
  const F32 row_logsumexp = load_queries<kPartial>(logsumexp + first, count);
  // A query that saw only -inf has logsumexp = -inf: its p are 0 instead of NaN.
  const F32 origin = select(equal(row_logsumexp, broadcast(-kInfinity)), broadcast(kInfinity), row_logsumexp);
  const F32 row_delta = load_queries<kPartial>(delta + first, count);
  const F32 row_scale = broadcast(scale);
  int64_t j = seen.any;
  while (j < seen.any_end) {
    const int64_t i = j * ld + first;
    if (!kCapped && j >= seen.every && j + kWide <= seen.every_end) {
      const Wide p = exponential(rounded_product(load_keys<kPartial>(scores + i, ld, count), row_scale) - origin);
      const Wide grad = p * ((load_keys<kPartial>(grad_scores + i, ld, count) - row_delta) * row_scale);
      store_keys<kPartial>(scores + i, ld, p, count);
      store_keys<kPartial>(grad_scores + i, ld, grad, count);
      j += kWide;
      continue;
    }
    F32 score = rounded_product(load_queries<kPartial>(scores + i, count), row_scale);
    TangentAt at;
    if (kCapped) {
      at = tangent_at(score, tangent);
      score = rounded_product(row_cap, at.value);
    }
    F32 p = exponential(score - origin);
    F32 grad = p * ((load_queries<kPartial>(grad_scores + i, count) - row_delta) * row_scale);
    if (kCapped) grad *= at.slope;
    if (!all_see(seen, j)) {
      p = zero_unless(sees(seen, j), p);
      grad = zero_unless(sees(seen, j), grad);
    }
    store_queries<kPartial>(scores + i, p, count);
    store_queries<kPartial>(grad_scores + i, grad, count);
    ++j;
  }
  hide_rest<kPartial>(scores + first, ld, seen, keys, count);
  hide_rest<kPartial>(grad_scores + first, ld, seen, keys, count);
}

template <bool kCapped>
static void softmax_columns_backward(float* scores, float* grad_scores, int64_t ld, int64_t keys, int64_t queries,
                                     const KeyRanges& seen, double cap, const float* logsumexp, const float* delta,
                                     float scale) {
  int64_t first = 0;
  for (; first + kLanes <= queries; first += kLanes)
    softmax_queries_backward<false, kCapped>(scores, grad_scores, ld, keys, first, kLanes, seen, cap, logsumexp, delta,
                                             scale);
  if (first < queries) {
    const int count = static_cast<int>(queries - first);
    softmax_queries_backward<true, kCapped>(scores, grad_scores, ld, keys, first, count, seen, cap, logsumexp, delta,
                                            scale);
  }
}

static void softmax_tile_backward(float* scores, float* grad_scores, int64_t ld, int64_t keys, int64_t queries,
                                  const KeyRanges& seen, double cap, const float* logsumexp, const float* delta,
                                  float scale) {
  if (cap == 0)
    return softmax_columns_backward<false>(scores, grad_scores, ld, keys, queries, seen, cap, logsumexp, delta, scale);
  softmax_columns_backward<true>(scores, grad_scores, ld, keys, queries, seen, cap, logsumexp, delta, scale);
}
