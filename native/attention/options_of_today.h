// Refuses what the kernels of a backend do not compute yet, until they do.
#pragma once

#include <string>

#include "interface/operation.h"

namespace grpo {

template <class Args>
int check_options_of_today(const Args& args) {
  const auto refuse = [](int status, const char* name) {
    return fail(status, name, "is given, expected none: the kernels of this backend do not take it yet");
  };
  if (!is_null(args.window)) return refuse(GRPO_OPTION, "window");
  if (!is_null(args.softcap)) return refuse(GRPO_OPTION, "softcap");
  if (args.sink != nullptr) return refuse(GRPO_VALUE, "sink");
  if (args.out_low != nullptr) return refuse(GRPO_VALUE, "out_low");
  const auto dense = [](const DLTensor* x, const char* name) -> int {
    if (x == nullptr || x->shape[0] <= 1) return GRPO_OK;
    const int64_t row = x->shape[1] * x->shape[2];
    if (row_stride(x) == row) return GRPO_OK;
    return fail(GRPO_SHAPE, name, "has rows that lie " + std::to_string(row_stride(x)) + " apart, expected " +
                                      std::to_string(row) + ": the kernels of this backend take dense rows yet");
  };
  if (int status = dense(args.q, "q")) return status;
  if (int status = dense(args.k, "k")) return status;
  if (int status = dense(args.v, "v")) return status;
  if constexpr (requires { args.grad_q; }) {
    if (int status = dense(args.grad_q, "grad_q")) return status;
    if (int status = dense(args.grad_k, "grad_k")) return status;
    if (int status = dense(args.grad_v, "grad_v")) return status;
  }
  return GRPO_OK;
}

}  // namespace grpo
