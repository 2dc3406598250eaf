// The operands of the linear operations, logits = hidden head^T + bias, and the gradients that may be wanted.
#pragma once

#include <cstdint>

#include "logits/kept_sets.h"
#include "logits/temperature.h"

namespace grpo {

struct Linear {
  const char* hidden;  // [R,D]
  Float hidden_type;
  const char* head;  // [V,D]
  Float head_type;
  const char* bias;  // [V], may be null
  Float bias_type;
  const int32_t* token;  // [T]
  Temperature temperature;
  int64_t T, R, D;
  int64_t V;      // rows of the head that are looked at
  int64_t width;  // all of them: those from V on are padding, and get gradient 0
  bool part = false;  // they are those of ids vocab_start.. of a vocabulary, not the whole of it
  int64_t vocab_start = 0;
  KeptSets kept{};
  int64_t hidden_stride = D, head_stride = D;  // elements from one row to the next
};

// Null outputs are not wanted.
struct LinearGradients {
  char* hidden;  // [R,D]
  Float hidden_type;
  char* head;  // [V,D]
  Float head_type;
  char* bias;  // [V]
  Float bias_type;
  bool accumulate;   // head and bias are added to what is there
  double scale = 1;  // what all of them are multiplied by
};

template <class Args>
Linear linear_of(const Args& args, const Axes& axes) {
  Linear linear{data<char>(args.hidden),
          float_type(args.hidden),
          data<char>(args.head),
          float_type(args.head),
          data<char>(args.head_bias),
          args.head_bias == nullptr ? Float::kF32 : float_type(args.head_bias),
          data<int32_t>(args.token),
          temperature_of(args),
          axes['T'],
          axes['R'],
          axes['D'],
          is_null(args.valid_vocab) ? axes['V'] : args.valid_vocab,
          axes['V']};
  if constexpr (requires { args.vocab_start; }) {
    linear.part = !is_null(args.vocab_start);
    if (linear.part) linear.vocab_start = args.vocab_start;
  }
  linear.kept = kept_sets_of(args, linear.vocab_start, linear.V);
  return linear;
}

template <class Args>
LinearGradients linear_gradients_of(const Args& args) {
  const auto type = [](const DLTensor* tensor) { return tensor == nullptr ? Float::kF32 : float_type(tensor); };
  return {data<char>(args.grad_hidden),    type(args.grad_hidden), data<char>(args.grad_head), type(args.grad_head),
          data<char>(args.grad_head_bias), type(args.grad_head_bias), args.accumulate != 0};
}

}  // namespace grpo
