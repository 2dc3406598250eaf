// The list of operations, and the one exported symbol of the C interface.
#include "operation.h"

namespace grpo {

void last_error(grpo_error* error);
int defaults(const char* operation, void* args, grpo_objective* objective);

extern const grpo_operation kGroupAdvantage;

namespace {

const grpo_operation* const kOperations[] = {
    &kGroupAdvantage,
};

template <class Args, const grpo_operation& Operation>
int call(const Args* args, void* stream) {
  return Operation.run(args, stream);
}

const grpo_api kApi = {
    .size = sizeof(grpo_api),
    .version = GRPO_API_VERSION,
    .backend = "cpu",
    .operations = kOperations,
    .operation_count = sizeof kOperations / sizeof kOperations[0],
    .last_error = last_error,
    .defaults = defaults,
    .group_advantage = call<grpo_group_advantage_args, kGroupAdvantage>,
};

}  // namespace
}  // namespace grpo

const grpo_api* grpo_kernels_api(uint32_t version) { return version <= GRPO_API_VERSION ? &grpo::kApi : nullptr; }
