// What stands between the C interface and a launcher, the same for every operation. An operation's file ends with
//
//   int run(const Args& args, const Axes& axes, Launch& on) {
//     ...; on(x_kernel, {blocks, kThreads}, ...); return GRPO_OK;
//   }
//   GRPO_CUDA_OPERATION(kGroupAdvantage, group_advantage);
//
// Names, dtypes, axes and options are those of the CPU operation of that name: its descriptor is the only one.
#pragma once

#include <cstring>

#include "launch/launch.cuh"
#include "native/interface/operation.h"

namespace grpo::cuda {

constexpr int kLeastMajor = 8;  // the oldest architecture that this library has machine code for

// Of all architectures. 0 where none can be used, and `reason` (may be null) says why.
int32_t device_count(const char** reason);

int cuda_failed(const Failure& failure);  // sets last_error and the thread's cuda_code
void no_cuda_failure();

// Replaces the i32 inputs that lie on the host by copies in device memory, made in stream order. `copies` has one for
// each field. Returns a status.
int bring_inputs(const grpo_operation& operation, char* args, std::vector<DLTensor>& copies, Launch& on);

// Checks a call and rehearses it, then hands on what runs it: then(launch, bytes of scratch, run(launch)).
template <class Args, int (*Run)(const Args&, const Axes&, Launch&), const grpo_operation& Descriptor, class Then>
int rehearsed(const void* args, void* stream, Path* path, Then then) {
  no_cuda_failure();
  try {
    set_operation(Descriptor);
    alignas(Args) char whole[sizeof(Args)];
    grpo_objective objective;
    if (const int status = complete(Descriptor, args, whole, objective)) return status;
    Axes axes;
    int32_t id = 0;
    if (const int status = check(Descriptor, args, axes, &id)) return status;
    // An operation may have more to say of what lies on the host.
    if constexpr (requires(const Args& given) { check_given(given, axes); })
      if (const int status = check_given(*static_cast<const Args*>(args), axes)) return status;
    if (args != whole) std::memcpy(whole, args, sizeof(Args));
    std::vector<DLTensor> copies(Descriptor.field_count);
    const auto run_with = [&](Launch& on) {
      alignas(Args) char brought[sizeof(Args)];
      std::memcpy(brought, whole, sizeof(Args));
      if (const int status = bring_inputs(Descriptor, brought, copies, on)) return status;
      return Run(*reinterpret_cast<const Args*>(brought), axes, on);
    };
    Launch on(id, static_cast<cudaStream_t>(stream));
    Launch rehearsal(on, Launch::Rehearsal{path});
    if (const int status = run_with(rehearsal)) return status;
    return then(on, rehearsal.bytes(), run_with);
  } catch (const Failure& failure) {
    return cuda_failed(failure);
  } catch (const std::bad_alloc&) {
    return out_of_memory(Descriptor);
  }
}

template <class Args, int (*Run)(const Args&, const Axes&, Launch&), const grpo_operation& Descriptor>
int entry(const void* args, void* stream) {
  return rehearsed<Args, Run, Descriptor>(args, stream, nullptr, [](Launch& on, int64_t bytes, const auto& run) {
    on.reserve(bytes);
    return run(on);
  });
}

// The path is what the rehearsal heard.
template <class Args, int (*Run)(const Args&, const Axes&, Launch&), const grpo_operation& Descriptor>
int explain(const void* args, grpo_path* to) {
  Path path;
  return rehearsed<Args, Run, Descriptor>(args, nullptr, &path, [&](Launch&, int64_t, const auto&) {
    if (path.kernel.empty()) path.runs(Descriptor.name);
    return tell(path, to);
  });
}

#define GRPO_CUDA_OPERATION(variable, name)                                                                     \
  extern const grpo_operation variable;                                                                         \
  const grpo_operation variable = {#name, sizeof(grpo_##name##_args), objective_offset<grpo_##name##_args>(),   \
                                   grpo::variable.fields, grpo::variable.field_count,                           \
                                   entry<grpo_##name##_args, run, grpo::variable>,                              \
                                   explain<grpo_##name##_args, run, grpo::variable>}

}  // namespace grpo::cuda

// Descriptors of the CPU operations.
#include "native/interface/operation_list.h"
namespace grpo {
GRPO_OPERATIONS(GRPO_DECLARE)
}
