// The structs of the C interface, whose size may be that of an older header: defaults, and what a shorter one lacks.
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "interface/operation.h"
#include "interface/descriptors.h"

namespace grpo {
namespace {

int wrong_size(const char* argument, size_t size, size_t most) {
  return fail(GRPO_OPTION, argument, "has size " + std::to_string(size) + ", expected at most " + std::to_string(most) +
                                         ": sizeof the struct, of a header that is not newer than the library");
}

// The size that a struct begins with.
size_t size_of_struct(const void* object) {
  size_t size;
  std::memcpy(&size, object, sizeof size);
  return size;
}

// What a struct has beyond its own size member, as far as both have it.
void copy_members(void* to, const void* from, size_t size) {
  if (size > sizeof size)
    std::memcpy(static_cast<char*>(to) + sizeof size, static_cast<const char*>(from) + sizeof size, size - sizeof size);
}

// The defaults of an operation in structs of this library's sizes.
void fill(const grpo_operation& operation, char* args, grpo_objective& objective) {
  std::memset(args, 0, operation.args_size);
  std::memcpy(args, &operation.args_size, sizeof(size_t));
  objective = {};
  objective.size = sizeof objective;
  for (const Field& field : fields_of(operation)) {
    if (field.source->role != GRPO_OPTION_FIELD) continue;
    const OptionSpec& spec = field.option;
    const int64_t integer = std::isnan(spec.fallback) ? -1 : static_cast<int64_t>(spec.fallback);
    const int32_t choice = static_cast<int32_t>(integer);
    char* at = (field.source->in_objective ? reinterpret_cast<char*>(&objective) : args) + field.source->offset;
    if (spec.kind == OptionSpec::kNumber) std::memcpy(at, &spec.fallback, sizeof spec.fallback);
    else if (spec.kind == OptionSpec::kInteger) std::memcpy(at, &integer, sizeof integer);
    else std::memcpy(at, &choice, sizeof choice);
  }
}

}  // namespace

int complete(const grpo_operation& operation, const void*& args, char* whole, grpo_objective& objective) {
  if (args == nullptr) return fail(GRPO_MISSING, "args", "is missing");
  const size_t size = size_of_struct(args);
  if (size < sizeof size || size > operation.args_size) return wrong_size("size", size, operation.args_size);
  const char* at = static_cast<const char*>(args) + operation.objective_offset;
  const grpo_objective* given = nullptr;
  if (operation.objective_offset >= 0) {
    if (operation.objective_offset + sizeof given <= size) std::memcpy(&given, at, sizeof given);
    if (given == nullptr) return fail(GRPO_MISSING, "objective", "is missing");
    if (given->size < sizeof size || given->size > sizeof objective)
      return wrong_size("objective", given->size, sizeof objective);
  }
  if (size == operation.args_size && (given == nullptr || given->size == sizeof objective)) return GRPO_OK;
  fill(operation, whole, objective);
  copy_members(whole, args, size);
  if (given != nullptr) {
    copy_members(&objective, given, given->size);
    given = &objective;
    std::memcpy(whole + operation.objective_offset, &given, sizeof given);
  }
  args = whole;
  return GRPO_OK;
}

int defaults(const char* name, void* args, grpo_objective* objective) {
  const grpo_api* api = grpo_kernels_api(GRPO_API_VERSION);
  for (int32_t i = 0; i < api->operation_count; ++i) {
    const grpo_operation& operation = *api->operations[i];
    if (std::strcmp(operation.name, name) != 0) continue;
    set_operation(operation);
    std::vector<char> whole(operation.args_size);
    grpo_objective filled;
    fill(operation, whole.data(), filled);
    const size_t size = size_of_struct(args);
    if (size < sizeof size || size > operation.args_size) return wrong_size("size", size, operation.args_size);
    if (objective != nullptr && operation.objective_offset >= 0) {
      const size_t own = size_of_struct(objective);
      if (own < sizeof own || own > sizeof filled) return wrong_size("objective", own, sizeof filled);
      copy_members(objective, &filled, own);
      std::memcpy(whole.data() + operation.objective_offset, &objective, sizeof objective);
    }
    copy_members(args, whole.data(), size);
    return GRPO_OK;
  }
  return fail(GRPO_OPTION, "operation", std::string("is \"") + name + "\", which is no operation");
}

}  // namespace grpo
