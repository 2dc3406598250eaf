// What knows Node: this file and addon_cuda.cc. It fills the args struct of any operation from its descriptor;
// lib/call/execute.ts is the other half. A call comes as (operation number, numbers, stream, ...arrays), without a list,
// whose elements Node-API reads slowly:
//   numbers  for each of the arrays: dtype, number of axes, four axes, row stride (0 = dense), device (-1 = host); then
//            one for each option
//   stream   undefined: an operation of the CPU; a bigint (0 = the library's own): of the CUDA library
//   arrays   for each input and output a typed array, the address of device memory (a bigint), or undefined
#include <napi.h>

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "node/addon_cuda.h"
#include "interface/operation.h"
#include "platform/large_pages.h"
#include "platform/shared_library.h"

namespace grpo {
namespace {

constexpr int kMaxAxes = 4, kNumbersPerArray = 4 + kMaxAxes;
constexpr size_t kFirstArray = 3;  // of the arguments
// In the order of `dtypes` in lib/addon/dtypes.ts.
constexpr DLDataType kTypes[] = {{2, 32, 1}, {4, 16, 1}, {2, 16, 1}, {0, 32, 1}, {1, 8, 1}, {2, 64, 1}};

const grpo_api& api() { return *grpo_kernels_api(GRPO_API_VERSION); }

// Everything that an operation reads, in memory that stays put while it runs, on whichever thread.
struct Call {
  struct Array {
    DLTensor tensor;
    int64_t shape[kMaxAxes], strides[kMaxAxes];
  };
  const grpo_operation& operation;
  std::vector<Array> arrays;  // the inputs and outputs, whether given or not
  grpo_objective objective{};
  std::vector<char> args;
  std::shared_ptr<std::atomic<bool>> cancel;
  const bool on_cuda;
  void* stream;
  Problem problem;

  Call(const Napi::CallbackInfo& info) : Call(info, info[2].IsBigInt()) {}

  Call(const Napi::CallbackInfo& info, bool is_on_cuda)
      : operation(operation_of(info, is_on_cuda)),
        arrays(info.Length() > kFirstArray ? info.Length() - kFirstArray : 0),
        args(operation.args_size),
        on_cuda(is_on_cuda),
        stream(on_cuda ? pointer_of(info.Env(), info[2]) : nullptr) {
    const Napi::Env env = info.Env();
    const auto* numbers = static_cast<const double*>(memory_of(env, info[1]));
    std::memcpy(args.data(), &operation.args_size, sizeof(size_t));
    if (operation.objective_offset >= 0) {
      objective.size = sizeof objective;
      const void* pointer = &objective;
      std::memcpy(args.data() + operation.objective_offset, &pointer, sizeof pointer);
    }
    size_t array_index = 0;
    for (int32_t i = 0; i < operation.field_count; ++i) {
      const grpo_field& field = operation.fields[i];
      char* at = (field.in_objective ? reinterpret_cast<char*>(&objective) : args.data()) + field.offset;
      if (field.role == GRPO_OPTION_FIELD) {
        set_option(field, *numbers++, at);
      } else {
        const Napi::Value value = info[kFirstArray + array_index];
        if (!value.IsUndefined()) set_array(env, value, numbers, arrays[array_index], at);
        ++array_index;
        numbers += kNumbersPerArray;
      }
    }
  }

  // Asks for the address alone: Node-API finds everything else by calls of its own.
  static void* memory_of(Napi::Env env, const Napi::Value& value) {
    void* data = nullptr;
    if (napi_get_typedarray_info(env, value, nullptr, nullptr, &data, nullptr, nullptr) != napi_ok)
      throw Napi::TypeError::New(env, "expected a typed array");
    return data;
  }

  static void set_array(Napi::Env env, const Napi::Value& value, const double* numbers, Array& array, char* at) {
    const auto device = static_cast<int32_t>(numbers[3 + kMaxAxes]);
    array.tensor.data = device >= 0 ? pointer_of(env, value) : memory_of(env, value);
    array.tensor.device = device >= 0 ? DLDevice{kDLCUDA, device} : DLDevice{kDLCPU, 0};
    array.tensor.dtype = kTypes[static_cast<int>(numbers[0])];
    array.tensor.ndim = static_cast<int32_t>(numbers[1]);
    for (int axis = 0; axis < kMaxAxes; ++axis) array.shape[axis] = static_cast<int64_t>(numbers[2 + axis]);
    array.tensor.shape = array.shape;
    array.tensor.strides = nullptr;
    array.tensor.byte_offset = 0;
    if (numbers[2 + kMaxAxes] > 0) {
      int64_t dense = 1;
      for (int axis = array.tensor.ndim; axis-- > 0; dense *= array.shape[axis]) array.strides[axis] = dense;
      array.strides[0] = static_cast<int64_t>(numbers[2 + kMaxAxes]);
      array.tensor.strides = array.strides;
    }
    const DLTensor* pointer = &array.tensor;
    std::memcpy(at, &pointer, sizeof pointer);
  }

  static void set_option(const grpo_field& field, double value, char* at) {
    if (field.spec[0] == 'n') {  // number, as the others begin with integer, boolean or enum
      std::memcpy(at, &value, sizeof value);
    } else if (field.spec[0] == 'i') {
      const int64_t integer = std::isnan(value) ? -1 : static_cast<int64_t>(value);
      std::memcpy(at, &integer, sizeof integer);
    } else {
      const int32_t choice = std::isnan(value) ? -1 : static_cast<int32_t>(value);
      std::memcpy(at, &choice, sizeof choice);
    }
  }

  void run() {
    enter([this] {
      cancel_flag = cancel.get();
      const int status = operation.run(args.data(), stream);
      cancel_flag = nullptr;
      return status;
    });
  }

  template <class F>
  void enter(F&& function) {
    const int status = function();
    problem = on_cuda ? Problem::of(status, *cuda_api()->operations, cuda_api()) : Problem::of(status, api(), nullptr);
  }

  Napi::Value result(Napi::Env env) const { return problem.value(env); }

  static const grpo_operation& operation_of(const Napi::CallbackInfo& info, bool on_cuda) {
    if (on_cuda && cuda_api() == nullptr) throw Napi::Error::New(info.Env(), "the CUDA library is not loaded");
    const grpo_api& table = on_cuda ? *cuda_api()->operations : api();
    const uint32_t index = info[0].As<Napi::Number>().Uint32Value();
    if (index >= static_cast<uint32_t>(table.operation_count))
      throw Napi::RangeError::New(info.Env(), "no such operation");
    return *table.operations[index];
  }
};

Napi::Value run(const Napi::CallbackInfo& info) {
  Call call(info);
  call.run();
  return call.result(info.Env());
}

// What `run` with these arguments would do: { kernel, reason } or the error.
Napi::Value explain(const Napi::CallbackInfo& info) {
  Call call(info);
  grpo_path path{};
  call.enter([&] { return call.operation.explain(call.args.data(), &path); });
  if (call.problem.status != GRPO_OK) return call.result(info.Env());
  Napi::Object found = Napi::Object::New(info.Env());
  found.Set("kernel", path.kernel);
  found.Set("reason", path.reason);
  return found;
}

class Worker : public Napi::AsyncWorker {
 public:
  Worker(const Napi::CallbackInfo& info)
      : AsyncWorker(info.Env(), "grpo-kernels"),
        deferred_(Napi::Promise::Deferred::New(info.Env())),
        arrays_(Napi::Persistent(arrays_of(info))),
        call_(info) {
    call_.cancel = std::make_shared<std::atomic<bool>>(false);
  }
  void Execute() override { call_.run(); }
  void OnOK() override { deferred_.Resolve(call_.result(Env())); }
  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }
  Napi::Value promise() const { return deferred_.Promise(); }
  std::shared_ptr<std::atomic<bool>> cancel() const { return call_.cancel; }

 private:
  static Napi::Object arrays_of(const Napi::CallbackInfo& info) {
    Napi::Array arrays = Napi::Array::New(info.Env());
    for (size_t i = kFirstArray; i < info.Length(); ++i) arrays[static_cast<uint32_t>(i - kFirstArray)] = info[i];
    return arrays;
  }

  Napi::Promise::Deferred deferred_;
  Napi::ObjectReference arrays_;  // keeps the memory alive until the call is done
  Call call_;
};

// Returns { promise, cancel }: runs on a thread of libuv's pool.
Napi::Value run_async(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto worker = std::make_unique<Worker>(info);
  Napi::Object handle = Napi::Object::New(env);
  handle.Set("promise", worker->promise());
  const auto cancel = [flag = worker->cancel()](const Napi::CallbackInfo&) { *flag = true; };
  handle.Set("cancel", Napi::Function::New(env, cancel));
  worker.release()->Queue();  // deletes itself when done
  return handle;
}

Napi::Value is_detached(const Napi::CallbackInfo& info) {
  bool detached = false;
  napi_is_detached_arraybuffer(info.Env(), info[0], &detached);
  return Napi::Boolean::New(info.Env(), detached);
}

// Whether two Float32Arrays share memory. By address: wrappers of one shared buffer are different objects to
// JavaScript.
Napi::Value overlap(const Napi::CallbackInfo& info) {
  const auto range = [&](size_t i) {
    void* data = nullptr;
    size_t length = 0;
    napi_get_typedarray_info(info.Env(), info[i], nullptr, &length, &data, nullptr, nullptr);
    return std::pair{reinterpret_cast<uintptr_t>(data), length * sizeof(float)};
  };
  const auto [x, x_bytes] = range(0);
  const auto [y, y_bytes] = range(1);
  return Napi::Boolean::New(info.Env(), x_bytes > 0 && y_bytes > 0 && x < y + y_bytes && y < x + x_bytes);
}

// For a typed array that was just made.
Napi::Value advise(const Napi::CallbackInfo& info) {
  void* data = nullptr;
  napi_get_typedarray_info(info.Env(), info[0], nullptr, nullptr, &data, nullptr, nullptr);
  prefer_large_pages(data, info[1].As<Napi::Number>().Int64Value());
  return info.Env().Undefined();
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  // The pool's threads run code of this file: it must stay when the last worker_thread that loaded it ends.
  never_unload(reinterpret_cast<void*>(&init));
  exports.Set("operations", operations(env, api()));
  add_cuda(env, exports);
  exports.Set("run", Napi::Function::New(env, run));
  exports.Set("explain", Napi::Function::New(env, explain));
  exports.Set("runAsync", Napi::Function::New(env, run_async));
  exports.Set("isDetached", Napi::Function::New(env, is_detached));
  exports.Set("overlap", Napi::Function::New(env, overlap));
  exports.Set("preferLargePages", Napi::Function::New(env, advise));
  exports.Set("instructionSet", Napi::Function::New(env, [](const Napi::CallbackInfo& info) -> Napi::Value {
                return Napi::String::New(info.Env(), vector_kernels().name);
              }));
  exports.Set("setInstructionSet", Napi::Function::New(env, [](const Napi::CallbackInfo& info) -> Napi::Value {
                const std::string name = info[0].As<Napi::String>().Utf8Value();
                return Napi::Boolean::New(info.Env(), set_instruction_set(name.c_str()));
              }));
  exports.Set("instructionSetProblem", Napi::String::New(env, instruction_set_problem()));
  exports.Set("threads", Napi::Function::New(env, [](const Napi::CallbackInfo& info) -> Napi::Value {
                return Napi::Number::New(info.Env(), thread_count());
              }));
  exports.Set("setThreads", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                set_thread_count(info[0].As<Napi::Number>().Int32Value());
              }));
  exports.Set("threadsStarted", Napi::Function::New(env, [](const Napi::CallbackInfo& info) -> Napi::Value {
                return Napi::Number::New(info.Env(), threads_started());
              }));
  exports.Set("scratchPeak", Napi::Function::New(env, [](const Napi::CallbackInfo& info) -> Napi::Value {
                return Napi::Number::New(info.Env(), static_cast<double>(scratch_peak(info[0].ToBoolean())));
              }));
  return exports;
}

}  // namespace

Napi::Value operations(Napi::Env env, const grpo_api& api) {
  Napi::Array list = Napi::Array::New(env);
  for (int32_t i = 0; i < api.operation_count; ++i) {
    const grpo_operation& operation = *api.operations[i];
    Napi::Array fields = Napi::Array::New(env);
    for (int32_t j = 0; j < operation.field_count; ++j) {
      Napi::Object field = Napi::Object::New(env);
      field.Set("name", operation.fields[j].name);
      field.Set("role", operation.fields[j].role);
      field.Set("spec", operation.fields[j].spec);
      fields[static_cast<uint32_t>(j)] = field;
    }
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("name", operation.name);
    entry.Set("fields", fields);
    list[static_cast<uint32_t>(i)] = entry;
  }
  return list;
}

}  // namespace grpo

static Napi::Object Init(Napi::Env env, Napi::Object exports) { return grpo::init(env, exports); }
NODE_API_MODULE(grpo_kernels, Init)
