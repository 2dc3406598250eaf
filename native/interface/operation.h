// What stands between the C interface and a kernel, the same for every operation: an operation's file ends with
//
//   using Args = grpo_group_advantage_args;  // in which GRPO_IN, GRPO_OUT and GRPO_OPT find their members
//   const grpo_field kFields[] = {GRPO_IN(rewards, "f32[N]"), ..., GRPO_OUT(...), GRPO_OPT(...)};
//   GRPO_OPERATION(kGroupAdvantage, group_advantage, kFields);
//
// where run(args, axes) hands raw pointers to the kernel, which trusts them: check() in check.cc has held each before.
#pragma once

#include <cmath>
#include <new>
#include <string>

#include "interface/path.h"
#include "ops.h"
#include "parallel/parallel.h"
#include "vector/vector.h"

namespace grpo {

// The size of each axis of a call, by its letter.
struct Axes {
  int64_t size[26];
  int64_t operator[](char axis) const { return size[axis - 'A']; }
  int64_t& operator[](char axis) { return size[axis - 'A']; }
};

// Sets the thread's last error and returns its status. Names of arrays and options in `problem` stand in {braces}.
int fail(int status, const char* argument, std::string problem);

// Where the caller's structs are shorter than this library's, args becomes `whole`, with defaults for what they lack.
int complete(const grpo_operation& operation, const void*& args, char* whole, grpo_objective& objective);

// A call's copies of those i32 inputs that say where a kernel reads and writes: offsets, segments, ids that are sorted.
// The caller's memory may change while the call runs (another thread writes to a shared buffer), and what was checked
// would not be what is used. Inputs of numbers below an axis (tokens, rows, indices), of which there may be many, are
// not copied: a kernel reads each with read_once() and holds it against the axis. Neither are masks, which no kernel may
// count twice.
class OwnInputs {
 public:
  OwnInputs() = default;
  ~OwnInputs() {
    if (bytes_ > 0) scratch_release(values_, bytes_);
    if (own_ != room_) ::operator delete(own_);
  }
  OwnInputs(const OwnInputs&) = delete;
  OwnInputs& operator=(const OwnInputs&) = delete;

  // args(): the same with the copies in their place, or the caller's where there is nothing to copy.
  void take(const grpo_operation& operation, const void* args);
  const void* args() const { return args_; }

 private:
  const void* args_ = nullptr;
  // Args and tensors, and the values. Members of std::vector here end nvcc 13.0 with an internal error.
  void *own_ = room_, *values_ = few_;
  int64_t bytes_ = 0;  // of scratch
  // A call of a few groups allocates nothing.
  alignas(16) char room_[640];
  int32_t few_[64];
};

// The value as it is now, and the same one at every use: a plain read of memory that changes may be done again.
template <class T>
T read_once(const T* x) {
  T value;
  __atomic_load(const_cast<T*>(x), &value, __ATOMIC_RELAXED);
  return value;
}

// `device` null: all arrays lie on the host. Else they lie on one CUDA device, whose number it receives; i32 inputs may
// lie on the host, and only what lies there is looked at. With `own`, contents are those of its copies.
int check(const grpo_operation& operation, const void* args, Axes& axes, int32_t* device = nullptr,
          OwnInputs* own = nullptr);
int out_of_memory(const grpo_operation& operation);
void set_operation(const grpo_operation& operation);

template <class T>
const T* data(const DLTensor* tensor) {
  return tensor == nullptr ? nullptr
                           : reinterpret_cast<const T*>(static_cast<const char*>(tensor->data) + tensor->byte_offset);
}
template <class T>
T* data(DLTensor* tensor) {
  return const_cast<T*>(data<T>(static_cast<const DLTensor*>(tensor)));
}

inline Float float_type(const DLTensor* tensor) {
  if (tensor->dtype.code == 4) return Float::kBf16;
  return tensor->dtype.bits == 16 ? Float::kF16 : Float::kF32;
}

// Elements from one row, an entry of the first axis, to the next.
inline int64_t row_stride(const DLTensor* tensor) {
  if (tensor->strides != nullptr) return tensor->strides[0];
  int64_t row = 1;
  for (int32_t i = 1; i < tensor->ndim; ++i) row *= tensor->shape[i];
  return row;
}

inline bool is_null(double option) { return std::isnan(option); }
inline bool is_null(int64_t option) { return option < 0; }

template <class Args>
constexpr ptrdiff_t objective_offset() {
  if constexpr (requires(Args a) { a.objective; }) return offsetof(Args, objective);
  return -1;
}

// then(args, axes) with the arguments of a call that has been checked.
template <class Args, const grpo_operation& Operation, class Then>
int checked(const void* args, Then then) {
  try {
    FixedThreads threads;
    Axes axes;
    OwnInputs own;
    set_operation(Operation);
    alignas(Args) char whole[sizeof(Args)];
    grpo_objective objective;
    if (const int status = complete(Operation, args, whole, objective)) return status;
    if (const int status = check(Operation, args, axes, nullptr, &own)) return status;
    return then(*static_cast<const Args*>(own.args()), axes);
  } catch (const std::bad_alloc&) {
    return out_of_memory(Operation);
  }
}

template <class Args, int (*Run)(const Args&, const Axes&), const grpo_operation& Operation>
int entry(const void* args, void*) {
  return checked<Args, Operation>(args, [](const Args& given, const Axes& axes) {
    const int done = Run(given, axes);
    return done == GRPO_OK && cancelled() ? fail(GRPO_CANCELLED, "", "was cancelled") : done;
  });
}

// What an operation has to say of its path: nothing where it is plain C++, by_vectors where inner loops are vector code,
// else what a family says of the inputs by which it chooses (logits_path).
template <class Args>
int plainly(const Args&, const Axes&, Path&) {
  return GRPO_OK;
}
template <class Args>
int by_vectors(const Args&, const Axes&, Path& path) {
  path.runs(vector_kernels().name);
  path.because(why_not_wider());
  return GRPO_OK;
}

template <class Args, int (*Say)(const Args&, const Axes&, Path&), const grpo_operation& Operation>
int explain(const void* args, grpo_path* to) {
  return checked<Args, Operation>(args, [&](const Args& given, const Axes& axes) {
    Path path;
    if (const int status = Say(given, axes, path)) return status;
    path.kernel = Operation.name + (path.kernel.empty() ? "" : " (" + path.kernel + ")");
    return tell(path, to);
  });
}

// Declares and defines `const grpo_operation NAME`, whose args struct is grpo_<name>_args and whose adaptor is `run`.
#define GRPO_OPERATION_BY(say, variable, name, fields)                                                \
  extern const grpo_operation variable;                                                               \
  const grpo_operation variable = {#name, sizeof(grpo_##name##_args),                                 \
                                   objective_offset<grpo_##name##_args>(), fields,                    \
                                   sizeof(fields) / sizeof(fields[0]),                                \
                                   entry<grpo_##name##_args, run, variable>,                          \
                                   explain<grpo_##name##_args, say, variable>}
#define GRPO_OPERATION(variable, name, fields) GRPO_OPERATION_BY(plainly, variable, name, fields)

#define GRPO_IN(member, spec) {#member, GRPO_INPUT, 0, spec, offsetof(Args, member)}
#define GRPO_OUT(member, spec) {#member, GRPO_OUTPUT, 0, spec, offsetof(Args, member)}
#define GRPO_OUT_AS(name, member, spec) {#name, GRPO_OUTPUT, 0, spec, offsetof(Args, member)}
#define GRPO_OPT(member, spec) {#member, GRPO_OPTION_FIELD, 0, spec, offsetof(Args, member)}
#define GRPO_OBJECTIVE_OPT(member, spec) {#member, GRPO_OPTION_FIELD, 1, spec, offsetof(grpo_objective, member)}

}  // namespace grpo
