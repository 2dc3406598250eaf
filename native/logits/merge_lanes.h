// The body of merge_range.cc, included inside a namespace once per instruction set; kLanes doubles are a vector. As in
// loss/policy_loss_lanes.h no lambdas and no std templates.

#define GRPO_LANES static inline __attribute__((always_inline))

typedef double Lanes __attribute__((vector_size(kLanes * 8)));
typedef float HalfLanes __attribute__((vector_size(kLanes * 4)));

constexpr int64_t kTile = 64 * kLanes;  // tokens whose states lie in the nearest cache

// x[0] to x[count - 1], count <= kLanes; the other lanes are 0.
GRPO_LANES Lanes load(const float* x, int64_t count) {
  HalfLanes half = {};
  if (count >= kLanes) __builtin_memcpy(&half, x, sizeof half);
  else
    for (int64_t i = 0; i < count; ++i) half[i] = x[i];
  return __builtin_convertvector(half, Lanes);
}

GRPO_LANES void store(float* x, int64_t t, int64_t count, Lanes lanes) {
  if (x == nullptr) return;
  const HalfLanes half = __builtin_convertvector(lanes, HalfLanes);
  if (count >= kLanes) __builtin_memcpy(x + t, &half, sizeof half);
  else
    for (int64_t i = 0; i < count; ++i) x[t + i] = half[i];
}

GRPO_LANES Measured<Lanes> measured(const Parts& parts, int64_t i, int64_t t, int64_t count) {
  if (i == 0) return {load(parts.logp + t, count), load(parts.entropy + t, count), load(parts.logsumexp + t, count)};
  const int64_t at = (i - 1) * parts.T + t;
  return {load(parts.other_logp + at, count), load(parts.other_entropy + at, count),
          load(parts.other_logsumexp + at, count)};
}

// What is known of tokens t .. t + count - 1 after look_at. Part by part: the parts of one token may lie a power of two
// apart, where a cache has room for few of them.
GRPO_LANES void look_at_tile(const Parts& parts, int64_t t, int64_t count, Merging<Lanes>* state) {
  for (int64_t j = 0; j < count; j += kLanes) state[j / kLanes] = nothing_merged<Lanes>();
  for (int64_t i = 0; i <= parts.N; ++i)
    for (int64_t j = 0; j < count; j += kLanes) look_at(state[j / kLanes], measured(parts, i, t + j, count - j));
}

static void merge(const Parts& parts, const Merged& out, int64_t begin, int64_t end) {
  Merging<Lanes> state[kTile / kLanes];
  for (int64_t t = begin; t < end; t += kTile) {
    const int64_t count = end - t < kTile ? end - t : kTile;
    look_at_tile(parts, t, count, state);
    for (int64_t i = 0; i <= parts.N; ++i)
      for (int64_t j = 0; j < count; j += kLanes) add(state[j / kLanes], measured(parts, i, t + j, count - j));
    for (int64_t j = 0; j < count; j += kLanes) {
      const Measured<Lanes> x = whole_of(state[j / kLanes]);
      store(out.logp, t + j, count - j, x.logp);
      store(out.entropy, t + j, count - j, x.entropy);
      store(out.logsumexp, t + j, count - j, x.logsumexp);
    }
  }
}

// Whether any of these tokens has more than one finite logp: those are looked at closely.
GRPO_LANES bool any_claimed_twice(const Parts& parts, int64_t t, int64_t count) {
  int32_t claims[kTile] = {};
  for (int64_t i = 0; i <= parts.N; ++i) {
    const float* logp = i == 0 ? parts.logp + t : parts.other_logp + (i - 1) * parts.T + t;
    for (int64_t j = 0; j < count; ++j) claims[j] += logp[j] - logp[j] == 0;
  }
  int32_t most = 0;
  for (int64_t j = 0; j < count; ++j) most = claims[j] > most ? claims[j] : most;
  return most > 1;
}

static int64_t first_claimed_twice(const Parts& parts, int64_t begin, int64_t end) {
  Merging<Lanes> state[kTile / kLanes];
  for (int64_t t = begin; t < end; t += kTile) {
    const int64_t count = end - t < kTile ? end - t : kTile;
    if (!any_claimed_twice(parts, t, count)) continue;
    look_at_tile(parts, t, count, state);
    for (int64_t j = 0; j < count; ++j)
      if (claimed_twice(state[j / kLanes])[j % kLanes] != 0) return t + j;
  }
  return end;
}

#undef GRPO_LANES
