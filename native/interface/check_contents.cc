// What offsets and ids hold.
#include "interface/checked_call.h"

namespace grpo {
namespace {

int check_offsets(const CheckedCall& call, const Field& field, const int32_t* offsets, int64_t length) {
  const auto at = [](int64_t i, int32_t value) { return "[" + std::to_string(i) + "] is " + std::to_string(value); };
  const std::string name = field.source->name;
  if (offsets[0] != 0)
    return fail(GRPO_VALUE, name.c_str(), "begins with " + std::to_string(offsets[0]) + ", expected 0");
  for (int64_t i = 1; i < length; ++i)
    if (offsets[i] < offsets[i - 1])
      return fail(GRPO_VALUE, name.c_str(),
                  "falls: {" + name + "}" + at(i, offsets[i]) + ", {" + name + "}" + at(i - 1, offsets[i - 1]) +
                      ", expected offsets that rise");
  const int64_t end = call.axes[field.array.offsets];  // below 0: nothing else in this call has that axis
  if (end >= 0 && offsets[length - 1] != end)
    return fail(GRPO_VALUE, name.c_str(),
                "ends with " + std::to_string(offsets[length - 1]) + ", expected " + std::to_string(end) + " " +
                    origin(call, field.array.offsets));
  return GRPO_OK;
}

struct Ids {
  int64_t end;                   // 0 to end - 1
  int64_t padding, padding_end;  // but for these
  int64_t valid = 0;
};

int64_t integer_option(const CheckedCall& call, const char* name) {
  const Field* field = find(call, name, GRPO_OPTION_FIELD);
  int64_t value = -1;
  if (field != nullptr) std::memcpy(&value, call.args + field->source->offset, sizeof value);
  return value;
}

// Of a vocabulary of V columns, or of one of which they are a part.
Ids ids_of_vocabulary(const CheckedCall& call, int64_t V) {
  const int64_t start = integer_option(call, "vocab_start"), valid = integer_option(call, "valid_vocab");
  const int64_t first = is_null(start) ? 0 : start;
  return {is_null(start) ? V : int64_t{1} << 31, first + (is_null(valid) ? V : std::min(valid, V)), first + V, valid};
}

// Ids are not looked at where the mask is 0: padding may hold anything.
int check_below(const CheckedCall& call, const Field& field, const int32_t* values, int64_t length) {
  const Field* mask_field = find(call, "mask", GRPO_INPUT);
  const DLTensor* mask_tensor = mask_field == nullptr ? nullptr : tensor_of(call, *mask_field);
  if (mask_tensor != nullptr && mask_tensor->device.device_type != kDLCPU) return GRPO_OK;
  const bool masked = mask_tensor != nullptr && mask_tensor->shape[0] == length;
  const uint8_t* mask = masked ? data<uint8_t>(mask_tensor) : nullptr;
  const Ids ids = field.array.vocabulary != 0 ? ids_of_vocabulary(call, call.axes[field.array.vocabulary])
                                              : Ids{call.axes[field.array.below], 0, 0};
  const char axis = field.array.vocabulary != 0 ? field.array.vocabulary : field.array.below;
  for (int64_t i = 0; i < length; ++i) {
    if (mask != nullptr && mask[i] == 0) continue;
    const auto has = [&] { return "has " + std::to_string(values[i]) + " at " + std::to_string(i); };
    if (values[i] >= ids.padding && values[i] < ids.padding_end)
      return fail(GRPO_VALUE, field.source->name,
                  has() + ", which is padding of the vocabulary: {valid_vocab} is " + std::to_string(ids.valid));
    if (values[i] < 0 || values[i] >= ids.end)
      return fail(GRPO_VALUE, field.source->name,
                  has() + ", expected 0 to " + std::to_string(ids.end - 1) +
                      (ids.end == call.axes[axis] ? " " + origin(call, axis) : ""));
  }
  return GRPO_OK;
}

}  // namespace

int check_contents(const CheckedCall& call, const Field& field) {
  const DLTensor* tensor = tensor_of(call, field);
  if (tensor == nullptr || tensor->device.device_type != kDLCPU) return GRPO_OK;
  const ArraySpec& spec = field.array;
  if (spec.offsets != 0) return check_offsets(call, field, data<int32_t>(tensor), tensor->shape[0]);
  if (spec.below != 0 || spec.vocabulary != 0) return check_below(call, field, data<int32_t>(tensor), tensor->shape[0]);
  return GRPO_OK;
}

}  // namespace grpo
