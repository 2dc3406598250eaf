#include <cstring>
#include <new>
#include <vector>

#include "interface/descriptors.h"
#include "interface/operation.h"

namespace grpo {
namespace {

const DLTensor* tensor_of(const void* args, const Field& field) {
  const DLTensor* tensor;
  std::memcpy(&tensor, static_cast<const char*>(args) + field.source->offset, sizeof tensor);
  return tensor;
}

// The values of an input that is copied; 0 for any other.
int64_t values_of(const void* args, const Field& field) {
  const ArraySpec& spec = field.array;
  const bool integers = spec.types.size() == 1 && spec.types[0] == Type::kI32;
  if (field.source->role != GRPO_INPUT || !integers || spec.below != 0 || spec.vocabulary != 0) return 0;
  const DLTensor* tensor = tensor_of(args, field);
  return tensor == nullptr ? 0 : tensor->shape[0];
}

}  // namespace

void OwnInputs::take(const grpo_operation& operation, const void* args) {
  args_ = args;
  const std::vector<Field>& fields = fields_of(operation);
  int64_t count = 0, tensors = 0;
  for (const Field& field : fields)
    if (const int64_t values = values_of(args, field); values > 0) count += values, ++tensors;
  if (tensors == 0) return;
  const size_t offset = (operation.args_size + alignof(DLTensor) - 1) / alignof(DLTensor) * alignof(DLTensor);
  if (const size_t size = offset + tensors * sizeof(DLTensor); size > sizeof room_) own_ = ::operator new(size);
  char* own_args = static_cast<char*>(own_);
  std::memcpy(own_args, args, operation.args_size);
  args_ = own_args;
  DLTensor* copy = reinterpret_cast<DLTensor*>(own_args + offset);
  const int64_t bytes = count * int64_t{sizeof(int32_t)};
  if (bytes > int64_t{sizeof few_}) {
    values_ = scratch_allocate(bytes);
    bytes_ = bytes;
  }
  int32_t* to = static_cast<int32_t*>(values_);
  for (const Field& field : fields) {
    const int64_t values = values_of(args, field);
    if (values == 0) continue;
    const DLTensor* given = tensor_of(args, field);
    std::memcpy(to, data<int32_t>(given), values * sizeof *to);
    *copy = *given;
    copy->data = to, copy->byte_offset = 0, copy->strides = nullptr;
    to += values;
    std::memcpy(own_args + field.source->offset, &copy, sizeof copy);
    ++copy;
  }
}

}  // namespace grpo
