// Every function of ptx.cuh, called with a fixed pattern of lanes: registers in, registers out. A GPU and the interpreter
// have to give the same words; that is the one check that both mean the same by an instruction.
#pragma once

#include <functional>

#include "launch/launch.cuh"

namespace grpo::cuda {

// On the current device: visit(section, words, count) for each section that it can run.
void run_self_test(int32_t major, const std::function<void(const char*, const uint32_t*, int)>& visit);

}  // namespace grpo::cuda
