// How much device memory linear_policy_loss takes beyond its inputs and outputs at most: the sum of what its launcher
// asks for, in a rehearsal of the call with all that is optional; and the copies of inputs that may lie on the host.
#include <algorithm>

#include "launch/operation.cuh"
#include "linear/linear_policy_loss.cuh"

namespace grpo::cuda {
namespace {

int run(const grpo_linear_policy_loss_plan_args& args, const Axes&, Launch& on) {
  if (args.peak_bytes == nullptr) return GRPO_OK;
  const int64_t R = args.rows, T = args.tokens, V = args.vocabulary, D = args.hidden_size;
  const int64_t S = is_null(args.sequences) ? T : args.sequences;
  const Float type = static_cast<Float>(args.dtype);
  char* const given = reinterpret_cast<char*>(uintptr_t{256});  // an array of the call; nobody reads it
  Linear linear{given, type, D, given, type, D, given, type, reinterpret_cast<int32_t*>(given), {1, nullptr},
                T,     R,    D, V,     V};
  LossInputs in{};
  in.mask = reinterpret_cast<uint8_t*>(given);
  in.T = T, in.S = S;
  Objective objective{};
  objective.ratio = static_cast<Ratio>(args.ratio);
  objective.entropy_coef = 1;
  float* const output = reinterpret_cast<float*>(given);
  if (!is_null(args.kept)) linear.kept = {reinterpret_cast<int32_t*>(given), reinterpret_cast<int32_t*>(given), 0, V};
  // The gradients of a head without a bias may take other kernels, and other memory.
  const auto bytes = [&](char* bias) {
    Launch rehearsal(on, Launch::Rehearsal{});
    for (const int64_t count : {T, T, S + 1}) rehearsal.scratch<int32_t>(count);  // token, row, sequence_start
    if (!is_null(args.kept))
      for (const int64_t count : {R + 1, args.kept}) rehearsal.scratch<int32_t>(count);
    linear.bias = bias;
    const LinearGradients gradients{given, type, D, given, type, D, bias, type, false};
    linear_policy_loss({linear, gradients, reinterpret_cast<int32_t*>(given), in, objective,
                        args.chunk_rows, output, output, output, reinterpret_cast<double*>(given),
                        is_null(args.kept) ? 0 : args.kept},
                       rehearsal);
    return rehearsal.bytes();
  };
  *data<double>(args.peak_bytes) = static_cast<double>(std::max(bytes(nullptr), bytes(given)));
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kLinearPolicyLossPlan, linear_policy_loss_plan);

}  // namespace grpo::cuda
