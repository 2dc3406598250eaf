// What only attention asks of a call, on both backends.
#pragma once

#include <string>

#include "interface/operation.h"

namespace grpo {

template <class Args>
int check_attention(const Args& args, const Axes& axes) {
  if (axes['K'] == 0 ? axes['H'] != 0 : axes['H'] % axes['K'] != 0)
    return fail(GRPO_SHAPE, "q", "has " + std::to_string(axes['H']) + " heads, expected a multiple of K = " +
                                     std::to_string(axes['K']) + " from {k}");
  if (args.out_low != nullptr && float_type(args.q) == Float::kF32)
    return fail(GRPO_DTYPE, "out_low",
                "has dtype f32, as {q}, expected bf16 or f16: rounding {out} to f32 loses nothing that {out_low} could hold");
  return GRPO_OK;
}

}  // namespace grpo
