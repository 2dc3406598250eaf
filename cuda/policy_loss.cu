// The policy loss from log-probabilities. What is counted and summed over sequences comes first and stands in
// policy_loss_sequences.cu; here follow the tokens, and the sum of what their blocks left.
//
// A block has kBlockTokens tokens, whatever their sequences, which its threads look up in sequence_start, each once per
// sequence. 17 bytes are read and written per token with oldLogp, refLogp and a mask.
//
// Statistics are promised to 1e-12 and ties of the clip decided as the CPU decides them, so ratios, terms and sums are
// float64. But a GPU has few such instructions, a graphics card one for 64 of float32: what is read and only compared
// stays float32, whether a number is null, NaN or too large for float32 is asked of its bits, series take their numbers
// from constant memory, and the factors of a sequence are kept. A token of the common kernel (clip, k3, no entropy, the
// mean over tokens) issues 259 instructions, 76 of them float64, comparisons and conversions included; before there was
// a kernel of its own for these, 411 and 135, and what tells the objectives apart (sm_90a; loops that end at once are
// left out). 1,048,576 tokens: 9.2 us of issue on an H200, before 14.5 at least; of float64
// on an RTX 5090 98 us, before 174. The floor is 4.1 and 10.
#include "blocks/lanes.cuh"
#include "launch/operation.cuh"
#include "loss/policy_loss.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int64_t kBlockTokens = 1024;

// The loss and what `stats` holds, but for tokens and sequences, which the denominators know: the loss has the place of
// the first.
constexpr int32_t kLoss = kStatTokens, kSums = kStatCount;

struct Smaller {
  __device__ __forceinline__ double operator()(double x, double y) const { return y < x ? y : x; }
};
struct Larger {
  __device__ __forceinline__ double operator()(double x, double y) const { return y > x ? y : x; }
};

__device__ __forceinline__ double reduce_stat(int32_t stat, double value) {
  if (stat == kStatRatioMin) return warp_reduce(value, Smaller{});
  if (stat == kStatRatioMax) return warp_reduce(value, Larger{});
  return warp_reduce(value, Add{});
}

__device__ __forceinline__ double merge_stat(int32_t stat, double a, double b) {
  if (stat == kStatRatioMin) return Smaller{}(a, b);
  if (stat == kStatRatioMax) return Larger{}(a, b);
  return a + b;
}

__device__ __forceinline__ double no_stat(int32_t stat) {
  return stat == kStatRatioMin ? INFINITY : stat == kStatRatioMax ? -INFINITY : 0;
}

struct TokensShared {
  double sums[kWarps][kSums];
};

// What most calls ask for, and what `common` says of them to the compiler: it then leaves half of a token's work out.
bool is_common(const LossPass& pass) {
  const Objective& objective = pass.objective;
  const bool plain = pass.ids.token == nullptr && pass.in.ratio_low == nullptr && pass.in.ratio_high == nullptr &&
                     pass.in.T <= INT32_MAX - kBlockTokens;
  return plain && objective.surrogate == Surrogate::kClip && objective.ratio == Ratio::kToken &&
         objective.kl_weight == KlWeight::kNone && !binds(objective.log_ratio_clamp) && !binds(objective.kl_clamp) &&
         !binds(objective.kl_value_clamp) && !binds(objective.kl_term_clamp);
}
__device__ __forceinline__ LossPass common(LossPass pass) {
  Objective& objective = pass.objective;
  pass.ids = {};
  pass.in.ratio_low = pass.in.ratio_high = nullptr;
  objective.surrogate = Surrogate::kClip, objective.ratio = Ratio::kToken, objective.kl_weight = KlWeight::kNone;
  objective.log_ratio_clamp = objective.kl_clamp = objective.kl_value_clamp = objective.kl_term_clamp = NAN;
  return pass;
}

// Grid: ceil(T / 1,024). Block: 128. Shared: 480. Work: 17 bytes per token with oldLogp, refLogp and a mask. Bound:
// float64 arithmetic.
template <bool kCommon>
__global__ void __launch_bounds__(kThreads)
    tokens_kernel(LossPass given,
                  float* grad_logp,     // [T], may be null
                  float* grad_entropy,  // [T], may be null
                  double* sums) {       // [kSums][blocks]
  DYN_SMEM(TokensShared, shared);
  const LossPass pass = kCommon ? common(given) : given;
  const LossInputs& in = pass.in;
  using Index = std::conditional_t<kCommon, int32_t, int64_t>;  // 32 bits halve the arithmetic of addresses
  const Index begin = static_cast<Index>(blockIdx.x * kBlockTokens);
  const Index end = static_cast<Index>(begin + kBlockTokens < in.T ? begin + kBlockTokens : in.T);
  double loss = 0, policy = 0, kl_loss = 0, entropy = 0, ratio = 0, approx_kl = 0, kl = 0;
  double ratio_min = INFINITY, ratio_max = -INFINITY;
  int32_t low = 0, high = 0, dual = 0, non_finite = 0, bad = 0;
  const auto last = static_cast<Index>(find_sequence(in, end - 1));
  // Of the token before, and where the sequence behind it begins: at first where the block does, so that s is searched.
  Index s = static_cast<Index>(find_sequence(in, begin)), next = begin;
  SequenceFactors factors{};
  const bool good = pass.denominators->good;
  for (Index t = begin + static_cast<Index>(threadIdx.x); t < end; t += kThreads) {
    if (t >= next) {
      s = static_cast<Index>(find_sequence(in, t, s, last));
      next = s < last ? in.sequence_start[s + 1] : end;
      if (good) factors = sequence_factors(pass, s);
    }
    const bool counts = unmasked(in, t);
    if (!counts || !good || !good_id(pass.ids, t)) {
      const float nothing = counts ? NAN : 0;
      if (counts) loss = NAN, ++bad;
      if (grad_logp != nullptr) grad_logp[t] = nothing;
      if (grad_entropy != nullptr) grad_entropy[t] = nothing;
      continue;
    }
    const float entropy_of_token = in.entropy == nullptr ? 0 : in.entropy[t];
    const TokenTerm term =
        live_term(pass, load_operands(pass, t, s), [&] { return factors; }, in.logp[t], entropy_of_token);
    if (grad_logp != nullptr) grad_logp[t] = static_cast<float>(term.grad_logp);
    if (grad_entropy != nullptr) grad_entropy[t] = static_cast<float>(term.grad_entropy);
    loss += term.loss;
    policy += term.policy;
    kl_loss += term.kl_loss;
    entropy += term.entropy;
    ratio += term.ratio;
    approx_kl += term.approx_kl;
    kl += term.kl;
    ratio_min = Smaller{}(ratio_min, term.ratio), ratio_max = Larger{}(ratio_max, term.ratio);
    low += term.clipped_low, high += term.clipped_high, dual += term.clipped_dual;
    non_finite += term.non_finite;
  }

  const auto keep = [&](int32_t stat, double value) {
    if (lane_index() == 0) shared.sums[warp_index()][stat] = value;
  };
  keep(kLoss, warp_reduce(loss, Add{}));
  keep(kStatSequences, 0);
  keep(kStatPolicy, warp_reduce(policy, Add{}));
  keep(kStatKlLoss, warp_reduce(kl_loss, Add{}));
  keep(kStatEntropy, warp_reduce(entropy, Add{}));
  keep(kStatClippedLow, warp_reduce(low, Add{}));
  keep(kStatClippedHigh, warp_reduce(high, Add{}));
  keep(kStatDualClipped, warp_reduce(dual, Add{}));
  keep(kStatRatio, warp_reduce(ratio, Add{}));
  keep(kStatRatioMin, warp_reduce(ratio_min, Smaller{}));
  keep(kStatRatioMax, warp_reduce(ratio_max, Larger{}));
  keep(kStatApproxKl, warp_reduce(approx_kl, Add{}));
  keep(kStatKl, warp_reduce(kl, Add{}));
  keep(kStatNonFinite, warp_reduce(non_finite, Add{}));
  keep(kStatBadIndex, warp_reduce(bad, Add{}));
  __syncthreads();
  if (const int32_t stat = threadIdx.x; stat < kSums) {
    double sum = shared.sums[0][stat];
    for (int warp = 1; warp < kWarps; ++warp) sum = merge_stat(stat, sum, shared.sums[warp][stat]);
    sums[int64_t{stat} * gridDim.x + blockIdx.x] = sum;
  }
}

__device__ __forceinline__ double merged(const double* sums, int64_t blocks, int32_t stat) {
  double sum = no_stat(stat);
  for (int64_t block = lane_index(); block < blocks; block += kWarp)
    sum = merge_stat(stat, sum, sums[stat * blocks + block]);
  return reduce_stat(stat, sum);
}

// One block, a warp per statistic: lane l merges blocks l, l + 32, ...
// Grid: 1. Block: 480. Shared: 0. Work: 120 bytes per block of tokens_kernel. Bound: latency.
__global__ void __launch_bounds__(kSums* kWarp)
    merge_kernel(const double* sums,  // [kSums][blocks]
                 int64_t blocks,
                 const CheckedDenominators* denominators,  // [1]
                 float* loss,                              // [1], may be null
                 double* stats) {                          // [kStatCount], may be null
  const int32_t stat = warp_index();
  double sum = merged(sums, blocks, stat);
  // Terms that are numbers, but not their sum.
  if (stat == kStatNonFinite && sum == 0 && !float32_holds(merged(sums, blocks, kLoss))) sum = 1;
  if (lane_index() != 0) return;
  if (stat == kLoss && loss != nullptr) *loss = static_cast<float>(sum);
  if (stats == nullptr) return;
  stats[stat] = stat == kStatTokens      ? static_cast<double>(denominators->tokens)
                : stat == kStatSequences ? static_cast<double>(denominators->sequences)
                                         : sum;
}

using Args = grpo_policy_loss_args;

int run(const Args& args, const Axes& axes, Launch& on) {
  if (const int status = check_objective(args, args.entropy != nullptr)) return status;
  LossInputs in = loss_inputs(args, axes);
  in.logp = data<float>(args.logp), in.entropy = data<float>(args.entropy);
  LossPass pass = prepare_loss(in, {}, objective_of(args), on);
  prepare_sequences(pass, args.grad_logp != nullptr, on);
  policy_loss(pass, data<float>(args.loss), data<float>(args.grad_logp), data<float>(args.grad_entropy),
              data<double>(args.stats), on);
  return GRPO_OK;
}

}  // namespace

void policy_loss(const LossPass& pass, float* loss, float* grad_logp, float* grad_entropy, double* stats, Launch& on) {
  const int64_t blocks = ceil_div(pass.in.T, kBlockTokens);
  double* sums = on.scratch<double>(kSums * blocks);
  const auto tokens = is_common(pass) ? tokens_kernel<true> : tokens_kernel<false>;
  on(tokens, {blocks, kThreads, sizeof(TokensShared)}, pass, grad_logp, grad_entropy, sums);
  on(merge_kernel, {1, kSums * kWarp}, sums, blocks, pass.denominators, loss, stats);
}

GRPO_CUDA_OPERATION(kPolicyLoss, policy_loss);

}  // namespace grpo::cuda
