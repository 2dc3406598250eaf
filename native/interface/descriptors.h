// The language of the specs in the descriptors and in lib/ops.ts, which explains it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ops.h"

namespace grpo {

enum class Type : uint8_t { kF32, kBf16, kF16, kF64, kI32, kU8, kUnknown };
Type type_of(const DLDataType& dtype);
const char* type_name(Type type);
int64_t type_bytes(Type type);

// "f32|bf16[R,V]? strided below V ..."
struct ArraySpec {
  std::vector<Type> types;  // empty: any
  std::string like;         // "=x" and "~x": the dtype of array x
  bool or_f32 = false;      // "~x": or f32
  struct Axis {
    char name;              // 0: the constant `plus`
    int64_t plus;           // "G+1"
    bool maybe;             // "D?": this and the following axes may be absent
  };
  std::vector<Axis> axes;
  bool optional = false;
  bool strided = false;
  char offsets = 0;         // rises from 0 to that axis
  char below = 0;           // values in [0, axis), where unmasked
  char vocabulary = 0;      // the same, unless vocab_start makes it a part of the vocabulary
  std::string over;         // may be the same memory as this input
};

// "number? = null > 0", "integer = 1 0..1", "boolean = false", "enum a|b|c"
struct OptionSpec {
  enum Kind : uint8_t { kNumber, kInteger, kBoolean, kEnum } kind = kNumber;
  bool nullable = false;
  bool required = false;
  double fallback = 0;      // of a number, integer or boolean; NaN: null
  bool has_low = false, low_open = false, has_high = false;
  double low = 0, high = 0;
  bool f32 = false, inverse = false;  // what float32 has to hold: it, its inverse
  std::vector<std::string> choices;
  char axis = 0;            // the axis that it sizes
};

struct Field {
  const grpo_field* source;
  ArraySpec array;
  OptionSpec option;
};

// Parsed once per operation.
const std::vector<Field>& fields_of(const grpo_operation& operation);

}  // namespace grpo
