#include "interface/path.h"

#include <cstring>
#include <utility>

#include "interface/operation_list.h"

namespace grpo {

int tell(Path path, grpo_path* to) {
  thread_local Path last;
  last = std::move(path);
  *to = {last.kernel.c_str(), last.reason.c_str()};
  return GRPO_OK;
}

const grpo_operation* find_operation(const grpo_api& api, const char* name) {
  for (int32_t i = 0; i < api.operation_count; ++i)
    if (std::strcmp(api.operations[i]->name, name) == 0) return api.operations[i];
  fail(GRPO_OPTION, "operation", std::string("is \"") + name + "\", which is no operation");
  return nullptr;
}

int explain(const grpo_api& api, const char* name, const void* args, grpo_path* path) {
  const grpo_operation* operation = find_operation(api, name);
  return operation == nullptr ? GRPO_OPTION : operation->explain(args, path);
}

}  // namespace grpo
