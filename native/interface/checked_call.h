// A call that is being checked, for the files of the checker.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "interface/descriptors.h"
#include "interface/operation.h"

namespace grpo {

struct CheckedCall {
  const std::vector<Field>& fields;
  const char* args;
  const char* objective;
  Axes& axes;
  int32_t* device;         // null: the host
  const Field* bound[26];  // the array that gave an axis its size
  const Field* placed;     // the first array that lies on a device
};

inline const DLTensor* tensor_of(const CheckedCall& call, const Field& field) {
  const DLTensor* tensor;
  std::memcpy(&tensor, call.args + field.source->offset, sizeof tensor);
  return tensor;
}

inline const Field* find(const CheckedCall& call, const std::string& name, int32_t role) {
  for (const Field& field : call.fields)
    if (field.source->role == role && name == field.source->name) return &field;
  return nullptr;
}

inline std::string brace(const Field& field) { return std::string("{") + field.source->name + "}"; }

// "(T = 4 from {logp})"
inline std::string origin(const CheckedCall& call, char axis) {
  const Field* from = call.bound[axis - 'A'];
  return std::string("(") + axis + " = " + std::to_string(call.axes[axis]) +
         (from != nullptr ? " from " + brace(*from) : "") + ")";
}

// Of an input whose kind, shape and memory have been checked, if it lies on the host: offsets, and numbers below an axis.
int check_contents(const CheckedCall& call, const Field& field);

}  // namespace grpo
