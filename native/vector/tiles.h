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

// How many keys each of some queries sees: all of them see the first `every`, and none sees those from `any` on.
struct Visible {
  I32 keys;
  int64_t every;
  int64_t any;
};

GRPO_INLINE Visible visible_keys(const int32_t* visible, int64_t first, int count, int64_t keys) {
  if (visible == nullptr) return {I32{}, keys, keys};
  Visible result = {I32{}, keys, 0};
  __builtin_memcpy(&result.keys, visible + first, count * sizeof(int32_t));
  for (int q = 0; q < count; ++q) {
    const int64_t seen = visible[first + q] < 0 ? 0 : visible[first + q] < keys ? visible[first + q] : keys;
    if (seen < result.every) result.every = seen;
    if (seen > result.any) result.any = seen;
  }
  return result;
}

GRPO_INLINE Mask sees(const Visible& visible, int64_t key) { return above(visible.keys, static_cast<int32_t>(key)); }

template <bool kPartial>
static void softmax_queries(float* scores, int64_t lds, int64_t keys, int64_t first, int count, const int32_t* visible,
                            float* max, float* sum, float* rescale) {
  const Visible seen = visible_keys(visible, first, count, keys);
  float* const column = scores + first;
  const F32 old_max = load_queries<kPartial>(max + first, count);
  F32 most = old_max;
  int64_t j = 0;
  for (; j < seen.every; ++j) most = larger(load_queries<kPartial>(column + j * lds, count), most);
  for (; j < seen.any; ++j) {
    const F32 score = load_queries<kPartial>(column + j * lds, count);
    most = larger(select(sees(seen, j), score, most), most);
  }
  // While a query has seen no key its maximum is -inf; measured from 0 its exponentials are 0 instead of NaN.
  const F32 origin = select(equal(most, broadcast(-kInfinity)), broadcast(0.0f), most);
  F32 added = {};
  for (j = 0; j + kWide <= seen.every; j += kWide) {
    const Wide p = exponential_below_zero(load_keys<kPartial>(column + j * lds, lds, count) - origin);
    store_keys<kPartial>(column + j * lds, lds, p, count);
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v) added += p.v[v];
  }
  for (; j < seen.any; ++j) {
    F32 p = exponential_below_zero(load_queries<kPartial>(column + j * lds, count) - origin);
    if (j >= seen.every) p = zero_unless(sees(seen, j), p);
    store_queries<kPartial>(column + j * lds, p, count);
    added += p;
  }
  for (; j < keys; ++j) store_queries<kPartial>(column + j * lds, F32{}, count);
  const F32 factor = select(equal(old_max, most), broadcast(1.0f), exponential_below_zero(old_max - origin));
  store_queries<kPartial>(max + first, most, count);
  store_queries<kPartial>(sum + first, multiply_add(load_queries<kPartial>(sum + first, count), factor, added), count);
  store_queries<kPartial>(rescale + first, factor, count);
}

static void softmax_tile(float* scores, int64_t lds, int64_t keys, int64_t queries, const int32_t* visible, float* max,
                         float* sum, float* rescale) {
  int64_t first = 0;
  for (; first + kLanes <= queries; first += kLanes)
    softmax_queries<false>(scores, lds, keys, first, kLanes, visible, max, sum, rescale);
  if (first < queries) {
    const int count = static_cast<int>(queries - first);
    softmax_queries<true>(scores, lds, keys, first, count, visible, max, sum, rescale);
  }
}

template <bool kPartial>
static void softmax_queries_backward(float* scores, float* grad_scores, int64_t ld, int64_t keys, int64_t first,
                                     int count, const int32_t* visible, const float* logsumexp, const float* delta,
                                     float scale) {
  const Visible seen = visible_keys(visible, first, count, keys);
  const F32 row_logsumexp = load_queries<kPartial>(logsumexp + first, count);
  // A query that saw only -inf has logsumexp = -inf: its p are 0 instead of NaN.
  const F32 origin = select(equal(row_logsumexp, broadcast(-kInfinity)), broadcast(kInfinity), row_logsumexp);
  const F32 row_delta = load_queries<kPartial>(delta + first, count);
  const F32 row_scale = broadcast(scale);
  int64_t j = 0;
  for (; j + kWide <= seen.every; j += kWide) {
    const int64_t i = j * ld + first;
    const Wide p = exponential(load_keys<kPartial>(scores + i, ld, count) - origin);
    const Wide grad = p * ((load_keys<kPartial>(grad_scores + i, ld, count) - row_delta) * row_scale);
    store_keys<kPartial>(scores + i, ld, p, count);
    store_keys<kPartial>(grad_scores + i, ld, grad, count);
  }
  for (; j < seen.any; ++j) {
    const int64_t i = j * ld + first;
    F32 p = exponential(load_queries<kPartial>(scores + i, count) - origin);
    F32 grad = p * ((load_queries<kPartial>(grad_scores + i, count) - row_delta) * row_scale);
    if (j >= seen.every) {
      p = zero_unless(sees(seen, j), p);
      grad = zero_unless(sees(seen, j), grad);
    }
    store_queries<kPartial>(scores + i, p, count);
    store_queries<kPartial>(grad_scores + i, grad, count);
  }
  for (; j < keys; ++j) {
    store_queries<kPartial>(scores + j * ld + first, F32{}, count);
    store_queries<kPartial>(grad_scores + j * ld + first, F32{}, count);
  }
}

static void softmax_tile_backward(float* scores, float* grad_scores, int64_t ld, int64_t keys, int64_t queries,
                                  const int32_t* visible, const float* logsumexp, const float* delta, float scale) {
  int64_t first = 0;
  for (; first + kLanes <= queries; first += kLanes)
    softmax_queries_backward<false>(scores, grad_scores, ld, keys, first, kLanes, visible, logsumexp, delta, scale);
  if (first < queries) {
    const int count = static_cast<int>(queries - first);
    softmax_queries_backward<true>(scores, grad_scores, ld, keys, first, count, visible, logsumexp, delta, scale);
  }
}
