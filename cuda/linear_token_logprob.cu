// Log-probabilities of tokens and the entropy of the policy from hidden states, and the way back, without the logits of
// all rows: chunks of rows as in linear/chunk.cuh. Forward one product for each chunk, backward three, of which the
// first gives the chunk's logits again.
//
// Which kernel runs: where D is a multiple of 8 and rows begin at multiples of 16 bytes, matrix instructions (mma, from
// compute capability 8.0 on; matmul_mma.cu) form the logits of hidden and head of one 16-bit dtype. gradHidden and
// gradHead of 16-bit hidden and head take one float16 term each where all gradients that are wanted are bf16; two bf16
// terms (matmul_split.cu) where more than one in 2^20 numbers of a bf16 head lie below 2^-32 of the largest; and two or
// three terms where a gradient is wanted in f16 or float32. Products of float32 hidden or head take the tiles of matmul.cu, in
// float32 without matrix instructions.
#include "launch/operation.cuh"
#include "linear/kept.cuh"
#include "native/logits/logits.h"

namespace grpo::cuda {
namespace {

int run(const grpo_linear_token_logprob_args& args, const Axes& axes, Launch& on) {
  if (const int status = check_vocabulary(args, axes)) return status;
  if (const int status = check_full(args)) return status;
  Linear linear = linear_of(args, axes);
  linear.kept_logits = data<float>(args.logits);
  TokenRows tokens = token_rows(linear, data<int32_t>(args.row), data<uint8_t>(args.mask));
  tokens.sets = row_sets(linear.kept, linear.R, axes['M'], linear.part, linear.width, on);
  float *full_logp = data<float>(args.full_logp), *full_logsumexp = data<float>(args.full_logsumexp);
  const auto memory = [&](DLTensor* given, bool needed) {
    return given == nullptr && needed ? on.scratch<float>(linear.T) : data<float>(given);
  };
  float *logp = memory(args.logp, full_logp != nullptr), *entropy = data<float>(args.entropy);
  float* logsumexp = memory(args.logsumexp, full_logsumexp != nullptr);
  begin_token_outputs(tokens, {logp, entropy, logsumexp}, on);
  LinearChunk chunk = linear_chunk(linear, nullptr, args.chunk_rows, on);
  KeptRows kept = kept_rows(linear, tokens, nullptr, on);
  chunk.named = named_rows(rows_without_set(tokens), on);
  for (int64_t begin = 0; begin < most_named(linear); begin += chunk.rows)
    chunk_softmax(linear, chunk, begin, logp, entropy, logsumexp, on);
  kept_softmax(linear, kept, logp, entropy, logsumexp, on);
  if (full_logp != nullptr) copy_outputs(logp, full_logp, linear.T, on);
  if (full_logsumexp != nullptr) copy_outputs(logsumexp, full_logsumexp, linear.T, on);
  if ((full_logp == nullptr && full_logsumexp == nullptr) || !kept.exist()) return GRPO_OK;
  // And the whole product of the rows that have sets.
  chunk.named = kept.named;
  for (int64_t begin = 0; begin < most_named(linear); begin += chunk.rows)
    chunk_softmax(linear, chunk, begin, full_logp, nullptr, full_logsumexp, on);
  return GRPO_OK;
}

int run(const grpo_linear_token_logprob_backward_args& args, const Axes& axes, Launch& on) {
  if (const int status = check_vocabulary(args, axes)) return status;
  if (const int status = check_entropy(args.entropy, args.grad_entropy)) return status;
  Linear linear = linear_of(args, axes);
  linear.logits = data<float>(args.logits);
  LinearGradients gradients = linear_gradients_of(args);
  gradients.scale = args.grad_scale;
  const float *grad_logp = data<float>(args.grad_logp), *grad_entropy = data<float>(args.grad_entropy);
  const float* entropy = grad_entropy == nullptr ? nullptr : data<float>(args.entropy);
  LinearChunk chunk = linear_chunk(linear, &gradients, args.chunk_rows, on);
  TokenRows tokens = token_rows(linear, data<int32_t>(args.row), data<uint8_t>(args.mask));
  tokens.grad_logp = grad_logp, tokens.grad_entropy = grad_entropy;
  tokens.sets = row_sets(linear.kept, linear.R, axes['M'], linear.part, linear.width, on);
  KeptRows kept = kept_rows(linear, tokens, &gradients, on);
  chunk.named = named_rows(rows_without_set(tokens), on);
  if (kept.exist()) chunk.whole_rows = chunk.named.count;
  begin_gradients(linear, chunk, gradients, on);
  for (int64_t begin = 0; begin < most_named(linear); begin += chunk.rows) {
    chunk_softmax(linear, chunk, begin, nullptr, nullptr, nullptr, on);
    chunk_gradient(linear, chunk, data<float>(args.logsumexp), entropy, grad_logp, grad_entropy, gradients, on);
  }
  kept_softmax(linear, kept, nullptr, nullptr, nullptr, on);
  kept_gradient(linear, kept, chunk, data<float>(args.logsumexp), entropy, grad_logp, grad_entropy, gradients, on);
  end_gradients(linear, chunk, gradients, on);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kLinearTokenLogprob, linear_token_logprob);
GRPO_CUDA_OPERATION(kLinearTokenLogprobBackward, linear_token_logprob_backward);

}  // namespace grpo::cuda
