// The log-probabilities of a vocabulary from those of its parts, each of which measured its own columns.
#include "formulas/merge_token_logprob.h"

#include <atomic>
#include <cstring>

#include "interface/operation.h"

namespace grpo {
namespace {

// Two lanes everywhere: ranks that hold the same parts get the same bits, whatever their machines can do.
constexpr int64_t kLanes = 2, kTile = 128 * kLanes, kPiece = 16 * kTile;  // tokens
typedef double Lanes __attribute__((vector_size(kLanes * 8)));
typedef float HalfLanes __attribute__((vector_size(kLanes * 4)));
using Merging = merging::Merging<Lanes>;
using Measured = merging::Measured<Lanes>;

struct Parts {
  const float *logp, *entropy, *logsumexp;                    // [T]
  const float *other_logp, *other_entropy, *other_logsumexp;  // [N,T]
  int64_t N, T;
};

// x[0] to x[count - 1], count <= kLanes; the other lanes are 0.
Lanes load(const float* x, int64_t count) {
  HalfLanes half = {};
  if (count >= kLanes) std::memcpy(&half, x, sizeof half);
  else
    for (int64_t i = 0; i < count; ++i) half[i] = x[i];
  return __builtin_convertvector(half, Lanes);
}

void store(float* x, int64_t count, Lanes lanes) {
  const HalfLanes half = __builtin_convertvector(lanes, HalfLanes);
  if (x == nullptr) return;
  if (count >= kLanes) std::memcpy(x, &half, sizeof half);
  else
    for (int64_t i = 0; i < count; ++i) x[i] = half[i];
}

// step(state, what a part measured) for `count` tokens from t on. Part by part: the parts of one token may lie a power
// of two apart, where a cache has room for few of them.
template <class F>
void for_parts(const Parts& parts, int64_t t, int64_t count, Merging* state, F&& step) {
  for (int64_t i = 0; i <= parts.N; ++i) {
    const int64_t at = i == 0 ? t : (i - 1) * parts.T + t;
    const float* logp = (i == 0 ? parts.logp : parts.other_logp) + at;
    const float* entropy = (i == 0 ? parts.entropy : parts.other_entropy) + at;
    const float* logsumexp = (i == 0 ? parts.logsumexp : parts.other_logsumexp) + at;
    for (int64_t j = 0; j < count; j += kLanes)
      step(state[j / kLanes],
           Measured{load(logp + j, count - j), load(entropy + j, count - j), load(logsumexp + j, count - j)});
  }
}

// done(t, count, state) for each tile of the range, after look_at().
template <class F>
void for_tiles(const Parts& parts, int64_t begin, int64_t end, F&& done) {
  Merging state[kTile / kLanes];
  for (int64_t t = begin; t < end; t += kTile) {
    const int64_t count = end - t < kTile ? end - t : kTile;
    for (Merging& m : state) m = merging::nothing_merged<Lanes>();
    for_parts(parts, t, count, state, [](Merging& m, const Measured& x) { look_at(m, x); });
    done(t, count, state);
  }
}

void merge_token_logprob(const Parts& parts,
                         float* out_logp,         // [T], may be null, as the other two
                         float* out_entropy,      // [T]
                         float* out_logsumexp) {  // [T]
  const auto at = [](float* x, int64_t t) { return x == nullptr ? nullptr : x + t; };
  parallel_for(parts.T, kPiece, [&](int64_t begin, int64_t end, int) {
    for_tiles(parts, begin, end, [&](int64_t t, int64_t count, Merging* state) {
      for_parts(parts, t, count, state, [](Merging& m, const Measured& x) { add(m, x); });
      for (int64_t j = 0; j < count; j += kLanes) {
        const Measured x = whole_of(state[j / kLanes]);
        store(at(out_logp, t + j), count - j, x.logp);
        store(at(out_entropy, t + j), count - j, x.entropy);
        store(at(out_logsumexp, t + j), count - j, x.logsumexp);
      }
    });
  });
}

void copy(const float* from, float* to, int64_t count) {
  if (to != nullptr && count > 0) std::memcpy(to, from, count * sizeof *to);
}

// The first token that is claimed twice; T where none is.
int64_t first_claimed_twice(const Parts& parts) {
  std::atomic<int64_t> first{parts.T};
  parallel_for(parts.T, kPiece, [&](int64_t begin, int64_t end, int) {
    if (begin >= first) return;
    for_tiles(parts, begin, end, [&](int64_t t, int64_t count, Merging* state) {
      for (int64_t j = 0; j < count; ++j) {
        int64_t known = first;
        const bool twice = claimed_twice(state[j / kLanes])[j % kLanes] != 0;
        while (twice && t + j < known && !first.compare_exchange_weak(known, t + j)) continue;
      }
    });
  });
  return first;
}

int refused(const Parts& parts, int64_t t) {
  int64_t claims[2] = {}, count = 0;  // places in the list
  for (int64_t i = 0; i <= parts.N && count < 2; ++i) {
    const double logp = i == 0 ? parts.logp[t] : parts.other_logp[(i - 1) * parts.T + t];
    if (merging::claims_token<double>({logp, 0, 0})) claims[count++] = i;
  }
  const std::string before = claims[0] == 0 ? "{logp}" : "row " + std::to_string(claims[0] - 1) + " of {other_logp}";
  return fail(GRPO_VALUE, "other_logp",
              "claims token " + std::to_string(t) + " in row " + std::to_string(claims[1] - 1) + ", as " + before +
                  " does, but one part of a vocabulary holds it: replicated logits are no parts");
}

using Args = grpo_merge_token_logprob_args;

int run(const Args& args, const Axes& axes) {
  const float *logp = data<float>(args.logp), *entropy = data<float>(args.entropy);
  const Parts parts{logp, entropy, data<float>(args.logsumexp), data<float>(args.other_logp),
                    data<float>(args.other_entropy), data<float>(args.other_logsumexp), axes['N'], axes['T']};
  float *out_logp = data<float>(args.out_logp), *out_entropy = data<float>(args.out_entropy);
  float* out_logsumexp = data<float>(args.out_logsumexp);
  if (parts.N == 0) {
    copy(parts.logp, out_logp, parts.T);
    copy(parts.entropy, out_entropy, parts.T);
    copy(parts.logsumexp, out_logsumexp, parts.T);
    return GRPO_OK;
  }
  if (const int64_t t = first_claimed_twice(parts); t < parts.T) return refused(parts, t);
  merge_token_logprob(parts, out_logp, out_entropy, out_logsumexp);
  return GRPO_OK;
}

const grpo_field kFields[] = {
    GRPO_IN(logp, "f32[T]"),
    GRPO_IN(entropy, "f32[T]"),
    GRPO_IN(logsumexp, "f32[T]"),
    GRPO_IN(other_logp, "f32[N,T]"),
    GRPO_IN(other_entropy, "f32[N,T]"),
    GRPO_IN(other_logsumexp, "f32[N,T]"),
    GRPO_OUT_AS(logp, out_logp, "f32[T]"),
    GRPO_OUT_AS(entropy, out_entropy, "f32[T]"),
    GRPO_OUT_AS(logsumexp, out_logsumexp, "f32[T]"),
};

}  // namespace

GRPO_OPERATION(kMergeTokenLogprob, merge_token_logprob, kFields);

}  // namespace grpo
