// The C interface, called as a caller in another language may call it by mistake: for each operation structs that are
// filled by their descriptor from random bytes, most of them right, some with an array or an option that is wrong. Every
// array has memory of exactly its size, so that the sanitizers see what lies beside it.
//
// With clang's libFuzzer it is called by that; else by a main of its own: c_interface SEED CALLS. See c_interface.mjs.
#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "ops.h"

namespace {

// The bytes that a call is made of; where they end they are zeros.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  uint8_t next() { return at_ < size_ ? data_[at_++] : 0; }
  // 0 to end - 1.
  int64_t below(int64_t end) { return end <= 0 ? 0 : next() % end; }
  bool one_in(int n) { return next() % n == n - 1; }

 private:
  const uint8_t* data_;
  size_t size_, at_ = 0;
};

struct Type {
  const char* name;
  DLDataType dtype;
};
constexpr Type kTypes[] = {{"f32", {2, 32, 1}}, {"bf16", {4, 16, 1}}, {"f16", {2, 16, 1}},
                           {"f64", {2, 64, 1}}, {"i32", {0, 32, 1}},  {"u8", {1, 8, 1}}};

const Type* type_named(const std::string& name) {
  for (const Type& type : kTypes)
    if (name == type.name) return &type;
  return nullptr;
}

struct Array {
  DLTensor tensor{};
  std::vector<int64_t> shape, strides;
  std::unique_ptr<char[]> memory;
  const Type* type = nullptr;
};

// What a spec says: "f32|bf16[R,V] rules".
struct Spec {
  std::string types, axes, rules;

  explicit Spec(const std::string& text) {
    const size_t open = text.find('['), close = text.find(']');
    types = text.substr(0, open), axes = text.substr(open + 1, close - open - 1), rules = text.substr(close + 1);
  }
  bool has(const char* rule) const { return rules.find(rule) != std::string::npos; }
  // The axis after a rule: 'T' of "offsets T".
  char axis_after(const char* rule) const {
    const size_t at = rules.find(rule);
    return at == std::string::npos ? 0 : rules[at + std::strlen(rule)];
  }
};

long computed = 0;

class Call {
 public:
  Call(const grpo_operation& operation, const uint8_t* data, size_t size)
      : operation_(operation), bytes_(data, size), args_(operation.args_size) {
    for (int64_t& axis : axes_) axis = bytes_.below(9);
    axes_['K' - 'A'] = 1 + bytes_.below(3), axes_['H' - 'A'] = axes_['K' - 'A'] * (1 + bytes_.below(3));
    for (const char part : {'T', 'N', 'P'})  // offsets to more than nothing need a part that has it
      if (bytes_.one_in(12)) axes_[part - 'A'] = 200 + bytes_.next();
  }

  void make(const grpo_api& api) {
    std::memset(args_.data(), 0, args_.size());
    std::memcpy(args_.data(), &operation_.args_size, sizeof(size_t));
    objective_.size = sizeof objective_;
    api.defaults(operation_.name, args_.data(), operation_.objective_offset < 0 ? nullptr : &objective_);
    arrays_.resize(operation_.field_count);
    const int wrong = bytes_.one_in(3) ? static_cast<int>(bytes_.below(operation_.field_count)) : -1;
    for (int i = 0; i < operation_.field_count; ++i) {
      const grpo_field& field = operation_.fields[i];
      char* at = (field.in_objective ? reinterpret_cast<char*>(&objective_) : args_.data()) + field.offset;
      if (field.role == GRPO_OPTION_FIELD) fill_option(field, at, i == wrong);
      else fill_array(field, at, i, i == wrong);
    }
    if (bytes_.one_in(40)) {
      const size_t size = bytes_.next();
      std::memcpy(args_.data(), &size, sizeof size);
    }
    const int status = operation_.run(args_.data(), nullptr);
    if (status == GRPO_OK) return void(++computed);
    grpo_error error{};
    api.last_error(&error);
    if (status > 0 || status < GRPO_CUDA || error.status != status || error.operation == nullptr ||
        error.argument == nullptr || error.problem == nullptr || error.problem[0] == 0) {
      std::fprintf(stderr, "%s returned %d, and says nothing of it\n", operation_.name, status);
      std::abort();
    }
  }

 private:
  void fill_option(const grpo_field& field, char* at, bool wrong) {
    if (!wrong && !bytes_.one_in(4)) return;
    const std::string spec = field.spec;
    constexpr double kNumbers[] = {0, 1, 0.5, 2, 1e-4, -1, 1e39, -1e39, INFINITY, -INFINITY, NAN, 1e-46, 3};
    constexpr int64_t kIntegers[] = {0, 1, 2, 3, 64, -1, -2, INT64_MAX, INT64_MIN, int64_t{1} << 31, int64_t{1} << 53};
    if (spec.rfind("number", 0) == 0) {
      const double value = kNumbers[bytes_.below(wrong ? std::size(kNumbers) : 5)];
      std::memcpy(at, &value, sizeof value);
    } else if (spec.rfind("integer", 0) == 0) {
      int64_t value = kIntegers[bytes_.below(wrong ? std::size(kIntegers) : 4)];
      if (spec.find("axis R") != std::string::npos) axes_['R' - 'A'] = value = value > 64 ? 64 : value;
      std::memcpy(at, &value, sizeof value);
    } else {
      const int32_t value = wrong ? static_cast<int8_t>(bytes_.next()) : static_cast<int32_t>(bytes_.below(3));
      std::memcpy(at, &value, sizeof value);
    }
  }

  const Type* type_of(const Spec& spec) {
    const bool like = spec.types[0] == '=' || spec.types[0] == '~';
    if (like) {
      for (int i = 0; i < operation_.field_count; ++i)
        if (spec.types.substr(1) == operation_.fields[i].name && arrays_[i].type != nullptr) return arrays_[i].type;
      return &kTypes[0];
    }
    if (spec.types == "any") return &kTypes[bytes_.below(std::size(kTypes))];
    if (const Type* only = type_named(spec.types)) return only;
    const Type* choice = &kTypes[bytes_.below(3)];
    return spec.types.find(choice->name) == std::string::npos ? &kTypes[0] : choice;
  }

  void fill_array(const grpo_field& field, char* at, int index, bool wrong) {
    const Spec spec(field.spec);
    const bool optional = spec.has(" ?") || field.role == GRPO_OUTPUT;
    if (optional ? bytes_.one_in(3) : wrong && bytes_.one_in(8)) return;  // absent
    Array& array = arrays_[index];
    array.type = type_of(spec);
    if (wrong && bytes_.one_in(4)) array.type = &kTypes[bytes_.below(std::size(kTypes))];
    for (size_t i = 0; i < spec.axes.size();) {
      int64_t axis = 0;
      if (spec.axes[i] >= 'A' && spec.axes[i] <= 'Z') axis = axes_[spec.axes[i++] - 'A'];
      if (i < spec.axes.size() && spec.axes[i] == '+') ++i;
      int64_t more = 0;
      while (i < spec.axes.size() && spec.axes[i] >= '0' && spec.axes[i] <= '9') more = more * 10 + spec.axes[i++] - '0';
      while (i < spec.axes.size() && (spec.axes[i] == '?' || spec.axes[i] == ',')) ++i;
      array.shape.push_back(axis + more);
    }
    if (wrong && bytes_.one_in(3)) array.shape[bytes_.below(array.shape.size())] += bytes_.below(3) - 1;
    int64_t count = 1;
    for (int64_t& size : array.shape) count *= size = size < 0 ? 0 : size;
    // Nobody can see that more is described than there is: a wrong description has memory for each that may be taken.
    const bool lies = wrong && bytes_.one_in(2);
    const int64_t size = array.type->dtype.bits / 8;
    array.memory.reset(new char[lies ? count * 32 + 1 : count * size]());
    fill_contents(spec, array, count);
    array.tensor = {array.memory.get(), {kDLCPU, 0}, static_cast<int32_t>(array.shape.size()), array.type->dtype,
                    array.shape.data(), nullptr, 0};
    if (lies) spoil(array);
    DLTensor* tensor = &array.tensor;
    std::memcpy(at, &tensor, sizeof tensor);
  }

  void fill_contents(const Spec& spec, Array& array, int64_t count) {
    for (int64_t i = 0; i < count * array.type->dtype.bits / 8; ++i) array.memory[i] = static_cast<char>(bytes_.next());
    if (bytes_.one_in(12)) return;  // any bits at all
    const bool whole = array.type->dtype.bits == 32 && array.type->dtype.code == 0;
    const char offsets = spec.axis_after("offsets "), below = spec.axis_after("below "),
               vocabulary = spec.axis_after("vocabulary ");
    for (int64_t i = 0; i < count; ++i) {
      if (array.type->name == std::string("f32")) {
        const float value = static_cast<float>(static_cast<int8_t>(array.memory[i * 4])) / 32;
        std::memcpy(&array.memory[i * 4], &value, sizeof value);
      } else if (whole) {
        int32_t value = static_cast<int8_t>(array.memory[i * 4]) % 4;
        if (offsets != 0) value = static_cast<int32_t>(count < 2 ? 0 : axes_[offsets - 'A'] * i / (count - 1));
        if (spec.axes == "M") value = static_cast<int32_t>(i % 8);  // ids of sets, which rise
        const char end = below != 0 ? below : vocabulary;
        if (end != 0) value = axes_[end - 'A'] == 0 ? 0 : std::abs(value) % static_cast<int32_t>(axes_[end - 'A']);
        std::memcpy(&array.memory[i * 4], &value, sizeof value);
      }
    }
  }

  // A description that is not true.
  void spoil(Array& array) {
    DLTensor& tensor = array.tensor;
    const size_t axes = array.shape.size();
    array.shape.resize(8, 1), tensor.shape = array.shape.data();
    switch (bytes_.below(9)) {
      case 0: tensor.ndim = static_cast<int32_t>(bytes_.below(8)) - 2; break;
      case 1: tensor.dtype.lanes = static_cast<uint16_t>(bytes_.next()); break;
      case 2: tensor.dtype.bits = bytes_.next(); break;
      case 3: tensor.dtype.code = bytes_.next(); break;
      case 4: tensor.device.device_type = static_cast<decltype(tensor.device.device_type)>(bytes_.below(4)); break;
      case 5: tensor.shape = nullptr; break;
      case 6: tensor.data = nullptr; break;
      case 7: array.shape[0] = -1; break;
      default:
        // The strides of a row that lies where it always lay, and some that do not.
        array.strides.assign(axes, 1);
        for (size_t i = axes; i-- > 1;) array.strides[i - 1] = array.strides[i] * array.shape[i];
        if (bytes_.one_in(2)) array.strides[bytes_.below(array.strides.size())] = static_cast<int8_t>(bytes_.next()) / 9;
        // No larger: rows may lie apart, and the memory ends.
        for (size_t i = 1; i < array.strides.size(); ++i) array.strides[0] = std::min(array.strides[0], array.shape[i]);
        tensor.strides = array.strides.data();
    }
  }

  const grpo_operation& operation_;
  Bytes bytes_;
  std::vector<char> args_;
  grpo_objective objective_{};
  std::vector<Array> arrays_;
  int64_t axes_[26];
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const grpo_api* api = grpo_kernels_api(GRPO_API_VERSION);
  Call(*api->operations[data[0] % api->operation_count], data + 1, size - 1).make(*api);
  return 0;
}

#ifndef GRPO_LIBFUZZER
namespace {
uint64_t last_state = 0;
// What a crash is put down to.
void say_which(int) {
  std::fprintf(stderr, "that call alone: c_interface %llu 1\n", static_cast<unsigned long long>(last_state));
}
}  // namespace

int main(int count, char** words) {
  uint64_t state = count > 1 ? std::strtoull(words[1], nullptr, 10) : 1;
  const long calls = count > 2 ? std::strtol(words[2], nullptr, 10) : 10000;
  const auto next = [&] {  // splitmix64
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  };
  std::signal(SIGABRT, say_which);
  std::vector<uint8_t> bytes;
  for (long i = 0; i < calls; ++i) {
    last_state = state;
    bytes.resize(next() % 3000 + 1);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(next());
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::printf("%ld calls of the C interface with seed %s: %ld computed, %ld were refused\n", calls,
              count > 1 ? words[1] : "1", computed, calls - computed);
}
#endif
