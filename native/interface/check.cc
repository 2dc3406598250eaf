// The generic checker behind the C interface: holds the arrays and options of a call against the specs of its
// descriptor, for every caller alike. Nothing has been written when it fails.
#include <algorithm>
#include <cstring>

#include "interface/checked_call.h"

namespace grpo {
namespace {

thread_local struct {
  const grpo_operation* operation;
  std::string argument, problem;
  int32_t status;
} last;

constexpr int32_t kHost = kDLCPU, kCuda = kDLCUDA;

std::string shape_text(const int64_t* shape, int32_t ndim) {
  std::string text = "[";
  for (int32_t i = 0; i < ndim; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

int64_t dimension(const CheckedCall& call, const ArraySpec::Axis& axis) {
  return axis.name == 0 ? axis.plus : call.axes[axis.name] + axis.plus;
}

std::string axis_text(const ArraySpec::Axis& axis) {
  if (axis.name == 0) return std::to_string(axis.plus);
  return std::string(1, axis.name) + (axis.plus ? " + " + std::to_string(axis.plus) : "");
}

int check_type(const CheckedCall& call, const Field& field, const DLTensor& tensor) {
  const Type type = type_of(tensor.dtype);
  const std::vector<Type>* expected = &field.array.types;
  if (type == Type::kUnknown)
    return fail(GRPO_DTYPE, field.source->name,
                "has a dtype that is none of f32, bf16, f16, i32, u8 and f64: code " +
                    std::to_string(tensor.dtype.code) + ", " + std::to_string(tensor.dtype.bits) + " bits, " +
                    std::to_string(tensor.dtype.lanes) + " lanes");
  std::vector<Type> as_model;
  std::string why;
  if (!field.array.like.empty()) {
    const Field* model = find(call, field.array.like, GRPO_INPUT);
    const DLTensor* other = model == nullptr ? nullptr : tensor_of(call, *model);
    if (other == nullptr) return GRPO_OK;
    as_model = {type_of(other->dtype)};
    const std::vector<Type>& possible = model->array.types;
    if (!possible.empty() && std::find(possible.begin(), possible.end(), as_model[0]) == possible.end())
      return GRPO_OK;  // the fault is the model's, and its own check will say so
    if (field.array.or_f32 && as_model[0] != Type::kF32) as_model.push_back(Type::kF32);
    expected = &as_model;
    why = ", as " + brace(*model);
  }
  if (expected->empty()) return GRPO_OK;
  for (const Type allowed : *expected)
    if (type == allowed) return GRPO_OK;
  std::string names;
  for (const Type allowed : *expected) names += std::string(names.empty() ? "" : " or ") + type_name(allowed);
  return fail(GRPO_DTYPE, field.source->name,
              std::string("has dtype ") + type_name(type) + ", expected " + names + why);
}

int check_shape(CheckedCall& call, const Field& field, const DLTensor& tensor) {
  const std::vector<ArraySpec::Axis>& axes = field.array.axes;
  size_t least = axes.size();
  while (least > 0 && axes[least - 1].maybe) --least;
  const auto letters = [&] {
    std::string text = "[";
    for (size_t i = 0; i < axes.size(); ++i) text += (i ? ", " : "") + axis_text(axes[i]);
    return text + "]";
  };
  const size_t ndim = static_cast<size_t>(tensor.ndim);
  if (ndim < least || ndim > axes.size())
    return fail(GRPO_SHAPE, field.source->name,
                "has shape " + shape_text(tensor.shape, tensor.ndim) + ", expected " + letters());

  for (size_t i = 0; i < axes.size(); ++i) {
    const ArraySpec::Axis& axis = axes[i];
    const int64_t size = i < ndim ? tensor.shape[i] : 1;
    if (size < 0 || size >= int64_t{1} << 31)
      return fail(GRPO_SHAPE, field.source->name,
                  "has shape " + shape_text(tensor.shape, tensor.ndim) + ", but an axis stays below 2147483648");
    if (axis.name != 0 && call.axes[axis.name] < 0) {  // the first array to mention an axis gives its size
      if (size < axis.plus)
        return fail(GRPO_SHAPE, field.source->name,
                    "has length 0, expected at least " + std::to_string(axis.plus) + " (" + axis_text(axis) + ")");
      call.axes[axis.name] = size - axis.plus;
      call.bound[axis.name - 'A'] = &field;
    }
    if (size == dimension(call, axis)) continue;
    if (axes.size() == 1) {
      std::string from = axis.name == 0 ? "" : origin(call, axis.name);
      if (axis.name != 0 && axis.plus) from = "(" + axis_text(axis) + ", " + from.substr(1);
      return fail(GRPO_SHAPE, field.source->name,
                  "has length " + std::to_string(size) + ", expected " + std::to_string(dimension(call, axis)) +
                      (axis.name == 0 ? "" : " " + from));
    }
    return fail(GRPO_SHAPE, field.source->name,
                "has shape " + shape_text(tensor.shape, tensor.ndim) + ", expected " + letters() + " with " +
                    axis_text(axis) + " = " + std::to_string(dimension(call, axis)) +
                    (axis.name == 0 ? "" : " " + origin(call, axis.name)));
  }
  return GRPO_OK;
}

int check_strides(const Field& field, const DLTensor& tensor) {
  if (tensor.strides == nullptr) return GRPO_OK;
  int64_t dense = 1;
  for (int32_t i = tensor.ndim - 1; i >= 0; --i) {
    const bool row = field.array.strided && i == 0 && tensor.ndim > 1;
    if (tensor.shape[i] > 1 && (row ? tensor.strides[i] < dense : tensor.strides[i] != dense))
      return fail(GRPO_SHAPE, field.source->name,
                  "has a stride of " + std::to_string(tensor.strides[i]) + " elements on axis " + std::to_string(i) +
                      ", expected " + (row ? "at least " : "") + std::to_string(dense));
    dense *= tensor.shape[i];
  }
  return GRPO_OK;
}

int check_memory(const Field& field, const DLTensor& tensor) {
  int64_t size = 1;
  for (int32_t i = 0; i < tensor.ndim; ++i) size = tensor.shape[i] == 0 ? 0 : size;
  if (size == 0) return GRPO_OK;
  if (tensor.data == nullptr) return fail(GRPO_VALUE, field.source->name, "has no memory: its data is null");
  if (reinterpret_cast<uintptr_t>(data<char>(&tensor)) % type_bytes(type_of(tensor.dtype)) != 0)
    return fail(GRPO_VALUE, field.source->name, "begins at an address that is not a multiple of its element's size");
  return GRPO_OK;
}

int check_device(CheckedCall& call, const Field& field, const DLTensor& tensor) {
  const bool on_host = tensor.device.device_type == kHost;
  if (call.device == nullptr)
    return on_host ? GRPO_OK
                   : fail(GRPO_DEVICE, field.source->name, "does not lie on the host, as the CPU operations need");
  const bool without_inputs = call.fields[0].source->role != GRPO_INPUT;  // a plan: nothing lies anywhere
  const bool may_stay = field.source->role == GRPO_INPUT && type_of(tensor.dtype) == Type::kI32;
  if (on_host && (may_stay || without_inputs)) return GRPO_OK;
  if (tensor.device.device_type != kCuda)
    return fail(GRPO_DEVICE, field.source->name, "does not lie on a GPU, as the CUDA operations need");
  if (call.placed == nullptr) {
    call.placed = &field;
    *call.device = tensor.device.device_id;
  }
  if (tensor.device.device_id == *call.device) return GRPO_OK;
  return fail(GRPO_DEVICE, field.source->name,
              "lies on device " + std::to_string(tensor.device.device_id) + ", but " + brace(*call.placed) +
                  " lies on device " + std::to_string(*call.device));
}

int check_array(CheckedCall& call, const Field& field) {
  const DLTensor* tensor = tensor_of(call, field);
  if (tensor == nullptr) {
    if (field.source->role == GRPO_OUTPUT || field.array.optional) return GRPO_OK;
    return fail(GRPO_MISSING, field.source->name, std::string("is missing, expected ") + field.source->spec);
  }
  if (int status = check_device(call, field, *tensor)) return status;
  if (int status = check_type(call, field, *tensor)) return status;
  if (tensor->ndim > 0 && tensor->shape == nullptr)
    return fail(GRPO_SHAPE, field.source->name, "has no shape: it is null");
  if (int status = check_shape(call, field, *tensor)) return status;
  if (int status = check_strides(field, *tensor)) return status;
  return check_memory(field, *tensor);
}

std::string number_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.15g", value);
  return text;
}

// What a kernel makes of a number has to be one too, in float32: where it divides in float64, what comes out of it is
// rounded to float32 in the end, and an infinite gradient makes NaN of the gradients behind it. Where it divides in
// float32, the inverse is held with some room, for a kernel may multiply it by log2 e, and normal, for a GPU may take
// what is not for 0.
int check_held(const Field& field, double value) {
  const OptionSpec& spec = field.option;
  const double size = std::fabs(value);
  const char* expected = nullptr;
  if (spec.f32 && spec.inverse && size != 0 && (size < 0x1p-126 || size > 0x1p126))
    expected = "a number of 1.2e-38 to 8.5e37, which float32 can hold with its inverse";
  else if (spec.f32 && size >= 0x1.ffffffp127) expected = "a number up to 3.4e38, which float32 can hold";
  else if (spec.inverse && size != 0 && size < 0x1p-126)
    expected = spec.has_low && !spec.low_open ? "0 or a number of at least 1.2e-38, whose inverse float32 can hold"
                                              : "a number of at least 1.2e-38, whose inverse float32 can hold";
  if (expected == nullptr) return GRPO_OK;
  return fail(GRPO_OPTION, field.source->name, "is " + number_text(value) + ", expected " + expected);
}

int check_option(CheckedCall& call, const Field& field) {
  const OptionSpec& spec = field.option;
  const char* at = (field.source->in_objective ? call.objective : call.args) + field.source->offset;
  double value = 0;
  if (spec.kind == OptionSpec::kNumber) {
    std::memcpy(&value, at, sizeof value);
    if (std::isnan(value) && spec.nullable) return GRPO_OK;
    if (!std::isfinite(value))
      return fail(GRPO_OPTION, field.source->name, "is " + number_text(value) + ", expected a finite number");
  } else if (spec.kind == OptionSpec::kInteger) {
    int64_t integer;
    std::memcpy(&integer, at, sizeof integer);
    if (integer == -1 && spec.nullable) return GRPO_OK;
    value = static_cast<double>(integer);
    if (spec.axis != 0) {
      call.axes[spec.axis] = integer;
      call.bound[spec.axis - 'A'] = &field;
    }
  } else {
    int32_t choice;
    std::memcpy(&choice, at, sizeof choice);
    if (choice == -1 && spec.nullable) return GRPO_OK;
    const int32_t end = spec.kind == OptionSpec::kBoolean ? 2 : static_cast<int32_t>(spec.choices.size());
    if (choice < 0 || choice >= end)
      return fail(GRPO_OPTION, field.source->name,
                  "is " + std::to_string(choice) + ", expected 0 to " + std::to_string(end - 1));
    return GRPO_OK;
  }
  if (spec.has_low && (spec.low_open ? value <= spec.low : value < spec.low))
    return fail(GRPO_OPTION, field.source->name,
                "is " + number_text(value) + ", expected " +
                    (spec.has_high ? number_text(spec.low) + " to " + number_text(spec.high)
                                   : (spec.low_open ? "a number above " : "at least ") + number_text(spec.low)));
  if (spec.has_high && value > spec.high)
    return fail(GRPO_OPTION, field.source->name,
                "is " + number_text(value) + ", expected " + number_text(spec.low) + " to " + number_text(spec.high));
  return check_held(field, value);
}

// Where the elements of an array lie: rows of `width` bytes, `stride` apart.
struct Extent {
  const char* begin;
  int64_t rows, width, stride;
  const char* end() const { return rows * width == 0 ? begin : begin + (rows - 1) * stride + width; }
};

Extent extent_of(const DLTensor& tensor) {
  int64_t width = type_bytes(type_of(tensor.dtype));
  for (int32_t i = 1; i < tensor.ndim; ++i) width *= tensor.shape[i];
  const int64_t rows = tensor.ndim == 0 ? 1 : tensor.shape[0];
  const int64_t stride = tensor.strides != nullptr && tensor.ndim > 0
                             ? tensor.strides[0] * type_bytes(type_of(tensor.dtype))
                             : width;
  if (stride == width || rows == 1) return {data<char>(&tensor), rows * width == 0 ? 0 : 1, rows * width, rows * width};
  return {data<char>(&tensor), width == 0 ? 0 : rows, width, stride};
}

// Two parts of the same wider rows share no element where one's columns come after the other's.
bool share_elements(const Extent& a, const Extent& b) {
  if (a.begin == a.end() || b.begin == b.end() || a.begin >= b.end() || b.begin >= a.end()) return false;
  if (a.stride != b.stride || a.rows == 1 || b.rows == 1) return true;
  const int64_t shift = ((b.begin - a.begin) % a.stride + a.stride) % a.stride;
  return shift < a.width || shift + b.width > a.stride;
}

// Outputs overlap no input and no other output; one array may be written over the input that its spec names.
int check_overlap(const CheckedCall& call) {
  struct Array {
    const Field& field;
    const DLTensor* tensor;
    Extent extent;
  };
  static thread_local std::vector<Array> arrays;
  arrays.clear();
  for (const Field& field : call.fields)
    if (field.source->role != GRPO_OPTION_FIELD)
      if (const DLTensor* tensor = tensor_of(call, field)) arrays.push_back({field, tensor, extent_of(*tensor)});
  for (const auto& [output, out, own] : arrays) {
    if (output.source->role != GRPO_OUTPUT) continue;
    for (const auto& [field, other, extent] : arrays) {
      if (&field == &output || !share_elements(own, extent)) continue;
      const bool same = output.array.over == field.source->name && field.source->role == GRPO_INPUT &&
                        own.begin == extent.begin && type_of(out->dtype) == type_of(other->dtype) &&
                        (out->shape[0] <= 1 || row_stride(out) == row_stride(other));
      if (!same)
        return fail(GRPO_VALUE, output.source->name, "overlaps " + brace(field) + ", expected memory of its own");
    }
  }
  return GRPO_OK;
}

}  // namespace

void set_operation(const grpo_operation& operation) { last.operation = &operation; }

int fail(int status, const char* argument, std::string problem) {
  last.argument = argument;
  last.problem = std::move(problem);
  return last.status = status;
}

int out_of_memory(const grpo_operation& operation) {
  last.operation = &operation;
  return fail(GRPO_MEMORY, "", "out of memory for the scratch space of this call");
}

void last_error(grpo_error* error) {
  *error = {last.status, last.operation == nullptr ? "" : last.operation->name, last.argument.c_str(),
            last.problem.c_str()};
}

int check(const grpo_operation& operation, const void* args, Axes& axes, int32_t* device, OwnInputs* own) {
  CheckedCall call{fields_of(operation), static_cast<const char*>(args), nullptr, axes, device, {}, nullptr};
  if (device != nullptr) *device = 0;
  std::fill(axes.size, axes.size + 26, -1);
  if (const std::string& problem = instruction_set_problem(); !problem.empty())
    return fail(GRPO_OPTION, "GRPO_KERNELS_ISA", problem);
  if (operation.objective_offset >= 0)
    std::memcpy(&call.objective, call.args + operation.objective_offset, sizeof call.objective);
  for (const Field& field : call.fields)
    if (field.source->role == GRPO_OPTION_FIELD)
      if (int status = check_option(call, field)) return status;
  for (const Field& field : call.fields)
    if (field.source->role != GRPO_OPTION_FIELD)
      if (int status = check_array(call, field)) return status;
  if (own != nullptr) {
    own->take(operation, args);
    call.args = static_cast<const char*>(own->args());
  }
  for (const Field& field : call.fields)
    if (field.source->role == GRPO_INPUT)
      if (int status = check_contents(call, field)) return status;
  call.args = static_cast<const char*>(args);
  return check_overlap(call);
}

}  // namespace grpo
