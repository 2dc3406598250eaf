// The operands of the linear operations, logits = hidden head^T + bias, and the gradients that may be wanted.
#pragma once

#include <cstdint>

#include "interface/operation.h"

namespace grpo {

struct Linear {
  const char* hidden;  // [R,D]
  Float hidden_type;
  const char* head;  // [V,D]
  Float head_type;
  const char* bias;  // [V], may be null
  Float bias_type;
  const int32_t* token;  // [T]
  float scale;           // 1 / temperature
  int64_t T, R, D, V;
};

// Null outputs are not wanted.
struct LinearGradients {
  char* hidden;  // [R,D]
  Float hidden_type;
  char* head;  // [V,D]
  Float head_type;
  char* bias;  // [V]
  Float bias_type;
};

template <class Args>
Linear linear_of(const Args& args, const Axes& axes) {
  return {data<char>(args.hidden),
          float_type(args.hidden),
          data<char>(args.head),
          float_type(args.head),
          data<char>(args.head_bias),
          args.head_bias == nullptr ? Float::kF32 : float_type(args.head_bias),
          data<int32_t>(args.token),
          static_cast<float>(1 / args.temperature),
          axes['T'],
          axes['R'],
          axes['D'],
          axes['V']};
}

template <class Args>
LinearGradients linear_gradients_of(const Args& args) {
  const auto type = [](const DLTensor* tensor) { return tensor == nullptr ? Float::kF32 : float_type(tensor); };
  return {data<char>(args.grad_hidden),    type(args.grad_hidden), data<char>(args.grad_head), type(args.grad_head),
          data<char>(args.grad_head_bias), type(args.grad_head_bias)};
}

}  // namespace grpo
