// The table of the CPU operations, and the one exported symbol of their C interface.
#include "interface/operation_list.h"

namespace grpo {

GRPO_OPERATIONS(GRPO_DECLARE)

namespace {
const grpo_operation* const kOperations[] = {GRPO_OPERATIONS(GRPO_LISTED)};
const grpo_api kApi = GRPO_API(kApi, "cpu");
}  // namespace

}  // namespace grpo

const grpo_api* grpo_kernels_api(uint32_t version) { return version <= GRPO_API_VERSION ? &grpo::kApi : nullptr; }
