#include "interface/descriptors.h"

#include <atomic>
#include <cmath>
#include <sstream>

namespace grpo {
namespace {

struct Named {
  Type type;
  const char* name;
  uint8_t code, bits;
};
constexpr Named kTypes[] = {{Type::kF32, "f32", 2, 32}, {Type::kBf16, "bf16", 4, 16}, {Type::kF16, "f16", 2, 16},
                            {Type::kF64, "f64", 2, 64}, {Type::kI32, "i32", 0, 32},   {Type::kU8, "u8", 1, 8}};

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, at);) parts.push_back(part);
  return parts;
}

ArraySpec parse_array(const std::string& spec) {
  ArraySpec array;
  const size_t open = spec.find('['), close = spec.find(']');
  const std::string types = spec.substr(0, open);
  if (types[0] == '=' || types[0] == '~') {
    array.like = types.substr(1);
    array.or_f32 = types[0] == '~';
  } else if (types != "any") {
    for (const std::string& name : split(types, '|'))
      for (const Named& type : kTypes)
        if (name == type.name) array.types.push_back(type.type);
  }
  for (const std::string& axis : split(spec.substr(open + 1, close - open - 1), ',')) {
    if (axis[0] >= '0' && axis[0] <= '9') {
      array.axes.push_back({0, std::stoll(axis), false});
    } else {
      array.axes.push_back({axis[0], axis.size() > 2 && axis[1] == '+' ? std::stoll(axis.substr(2)) : 0,
                            axis.back() == '?'});
    }
  }
  std::stringstream rules(spec.substr(close + 1));
  for (std::string word; rules >> word;) {
    if (word == "?") array.optional = true;
    if (word == "strided") array.strided = true;
    if (word == "offsets" && rules >> word) array.offsets = word[0];
    if (word == "below" && rules >> word) array.below = word[0];
    if (word == "vocabulary" && rules >> word) array.vocabulary = word[0];
    if (word == "over" && rules >> word) array.over = word;
  }
  return array;
}

OptionSpec parse_option(const std::string& spec) {
  OptionSpec option;
  std::stringstream words(spec);
  std::string kind;
  words >> kind;
  option.nullable = kind.back() == '?';
  if (option.nullable) kind.pop_back();
  option.kind = kind == "enum"      ? OptionSpec::kEnum
                : kind == "integer" ? OptionSpec::kInteger
                : kind == "boolean" ? OptionSpec::kBoolean
                                    : OptionSpec::kNumber;
  option.required = !option.nullable && option.kind != OptionSpec::kEnum;
  option.fallback = option.nullable ? NAN : 0;
  for (std::string word; words >> word;) {
    const size_t dots = word.find("..");
    if (option.kind == OptionSpec::kEnum) {
      option.choices = split(word, '|');
    } else if (word == "=") {
      words >> word;
      option.required = false;
      option.fallback = word == "null" ? NAN : word == "true" ? 1 : word == "false" ? 0 : std::stod(word);
    } else if (word == ">" || word == ">=") {
      option.has_low = true, option.low_open = word == ">";
      words >> option.low;
    } else if (word == "f32") {
      option.f32 = true;
    } else if (word == "inverse") {
      option.inverse = true;
    } else if (word == "axis") {
      words >> option.axis;
    } else if (dots != std::string::npos) {
      option.has_low = option.has_high = true;
      option.low = std::stod(word.substr(0, dots)), option.high = std::stod(word.substr(dots + 2));
    }
  }
  return option;
}

}  // namespace

Type type_of(const DLDataType& dtype) {
  for (const Named& type : kTypes)
    if (dtype.code == type.code && dtype.bits == type.bits && dtype.lanes == 1) return type.type;
  return Type::kUnknown;
}

const char* type_name(Type type) {
  for (const Named& named : kTypes)
    if (named.type == type) return named.name;
  return "of an unknown dtype";
}

int64_t type_bytes(Type type) {
  for (const Named& named : kTypes)
    if (named.type == type) return named.bits / 8;
  return 0;
}

const std::vector<Field>& fields_of(const grpo_operation& operation) {
  // A list that only grows, without a lock: a thread may be here while another one forks, and the child of fork() would
  // wait for its lock for ever.
  struct Parsed {
    const grpo_operation* operation;
    std::vector<Field> fields;
    const Parsed* next;
  };
  static std::atomic<const Parsed*> list{nullptr};
  const Parsed* first = list.load(std::memory_order_acquire);
  for (const Parsed* at = first; at != nullptr; at = at->next)
    if (at->operation == &operation) return at->fields;
  Parsed* parsed = new Parsed{&operation, {}, first};
  for (int32_t i = 0; i < operation.field_count; ++i) {
    const grpo_field& field = operation.fields[i];
    const bool option = field.role == GRPO_OPTION_FIELD;
    parsed->fields.push_back(
        {&field, option ? ArraySpec{} : parse_array(field.spec), option ? parse_option(field.spec) : OptionSpec{}});
  }
  // Two threads may both add an operation: then either is as good.
  while (!list.compare_exchange_weak(parsed->next, parsed, std::memory_order_acq_rel)) {
  }
  return parsed->fields;
}

}  // namespace grpo
