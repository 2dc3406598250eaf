// The half of the addon that knows devices: it loads the CUDA library when it is first asked for, and hands the
// functions of grpo_cuda_api to lib/arrays/cuda_library.ts.
#pragma once

#include <napi.h>

#include <string>

#include "ops.h"

namespace grpo {

// What went wrong in a call, in memory of its own: the library's texts last until the next call on the same thread.
struct Problem {
  int status = GRPO_OK;
  std::string argument, text, cuda_code;

  // From the last error of this thread. `cuda` null: of the CPU operations.
  static Problem of(int status, const grpo_api& operations, const grpo_cuda_api* cuda);
  Napi::Value value(Napi::Env env) const;  // undefined, or { status, argument, problem, cudaCode }
};

// The operations of a table with their fields, for lib/addon/native.ts to compare.
Napi::Value operations(Napi::Env env, const grpo_api& api);

// Null until loadCuda has succeeded.
const grpo_cuda_api* cuda_api();

// A cudaStream_t, an address or an event from a bigint.
void* pointer_of(Napi::Env env, const Napi::Value& value);

void add_cuda(Napi::Env env, Napi::Object exports);

}  // namespace grpo
