// The structs of the C interface, whose size may be that of an older header: defaults, and what a shorter one lacks.
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "interface/descriptors.h"
#include "interface/operation_list.h"

namespace grpo {
namespace {

// The size that a struct begins with.
size_t size_of_struct(const void* object) {
  size_t size;
  std::memcpy(&size, object, sizeof size);
  return size;
}

size_t member_bytes(const Field& field) {
  if (field.source->role != GRPO_OPTION_FIELD) return sizeof(void*);
  const OptionSpec::Kind kind = field.option.kind;
  return kind == OptionSpec::kNumber || kind == OptionSpec::kInteger ? 8 : 4;
}

// Whether a header may have had the struct in that size: it ends with one of its members, or has none beside the size.
// Any other size cuts a member, whose half would be taken for the whole, or was never written.
int check_size(const grpo_operation& operation, bool in_objective, size_t size) {
  constexpr size_t kAlignment = alignof(double) > alignof(void*) ? alignof(double) : alignof(void*);
  const char* argument = in_objective ? "objective" : "size";
  const size_t most = in_objective ? sizeof(grpo_objective) : operation.args_size;
  if (size < sizeof size || size > most)
    return fail(GRPO_OPTION, argument, "has size " + std::to_string(size) + ", expected at most " +
                                           std::to_string(most) +
                                           ": sizeof the struct, of a header that is not newer than the library");
  if (size == sizeof size || size == most) return GRPO_OK;
  const auto ends_with = [&](size_t end) { return (end + kAlignment - 1) / kAlignment * kAlignment == size; };
  const bool has_objective = !in_objective && operation.objective_offset >= 0;
  if (has_objective && ends_with(static_cast<size_t>(operation.objective_offset) + sizeof(void*))) return GRPO_OK;
  for (const Field& field : fields_of(operation))
    if ((field.source->in_objective != 0) == in_objective && ends_with(field.source->offset + member_bytes(field)))
      return GRPO_OK;
  return fail(GRPO_OPTION, argument, "has size " + std::to_string(size) +
                                         ", where no member ends: expected sizeof the struct, of this header or an "
                                         "older one");
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
  if (const int status = check_size(operation, false, size)) return status;
  const char* at = static_cast<const char*>(args) + operation.objective_offset;
  const grpo_objective* given = nullptr;
  if (operation.objective_offset >= 0) {
    if (operation.objective_offset + sizeof given <= size) std::memcpy(&given, at, sizeof given);
    if (given == nullptr) return fail(GRPO_MISSING, "objective", "is missing");
    if (const int status = check_size(operation, true, given->size)) return status;
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
  const grpo_operation* found = find_operation(*grpo_kernels_api(GRPO_API_VERSION), name);
  if (found == nullptr) return GRPO_OPTION;
  const grpo_operation& operation = *found;
  set_operation(operation);
  std::vector<char> whole(operation.args_size);
  grpo_objective filled;
  fill(operation, whole.data(), filled);
  const size_t size = size_of_struct(args);
  if (const int status = check_size(operation, false, size)) return status;
  if (objective != nullptr && operation.objective_offset >= 0) {
    const size_t own = size_of_struct(objective);
    if (const int status = check_size(operation, true, own)) return status;
    copy_members(objective, &filled, own);
    std::memcpy(whole.data() + operation.objective_offset, &objective, sizeof objective);
  }
  copy_members(args, whole.data(), size);
  return GRPO_OK;
}

}  // namespace grpo
