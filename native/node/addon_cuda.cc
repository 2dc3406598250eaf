#include "node/addon_cuda.h"

#include <atomic>
#include <cstdio>
#include <functional>
#include <map>
#include <utility>

#include "platform/shared_library.h"

namespace grpo {

namespace {

// One for all threads of JavaScript: the library is never unloaded, since its code may run on threads of the driver.
std::atomic<const grpo_cuda_api*> loaded{nullptr};

using Entry = const grpo_cuda_api* (*)(uint32_t version);

// loadCuda(path): undefined, or a sentence that says why it cannot be loaded.
Napi::Value load(const Napi::CallbackInfo& info) {
  if (cuda_api() != nullptr) return info.Env().Undefined();
  std::string problem;
  const auto entry = reinterpret_cast<Entry>(
      open_symbol(info[0].As<Napi::String>().Utf8Value(), "grpo_kernels_cuda_api", problem));
  if (entry == nullptr) return Napi::String::New(info.Env(), problem);
  const grpo_cuda_api* api = entry(GRPO_API_VERSION);
  if (api == nullptr || api->size < sizeof(grpo_cuda_api))
    return Napi::String::New(info.Env(), "it is older than the addon");
  loaded = api;
  return info.Env().Undefined();
}

// What a thread of JavaScript has allocated and recorded. When it ends, terminated or not, nobody else can release
// that: it goes back in stream order, after the events, one of which follows every use on a caller's stream.
struct Held {
  std::map<void*, int32_t> memory, events;  // and their devices
  ~Held() {
    const grpo_cuda_api* cuda = cuda_api();
    for (const auto& [event, of] : events) {
      cuda->wait(of, nullptr, event);
      cuda->destroy_event(event);
    }
    for (const auto& [address, of] : memory) cuda->release(of, address, nullptr);
  }
};
Held& held(Napi::Env env) { return *env.GetInstanceData<Held>(); }

// The arguments of a call from lib/arrays/cuda_library.ts, which trusts itself.
struct Arguments {
  const Napi::CallbackInfo& info;
  int32_t device(size_t i) const { return info[i].As<Napi::Number>().Int32Value(); }
  size_t bytes(size_t i) const { return static_cast<size_t>(info[i].As<Napi::Number>().Int64Value()); }
  void* pointer(size_t i) const { return pointer_of(info.Env(), info[i]); }
  std::pair<void*, size_t> memory(size_t i) const {
    void* data = nullptr;
    if (napi_get_typedarray_info(info.Env(), info[i], nullptr, nullptr, &data, nullptr, nullptr) != napi_ok)
      throw Napi::TypeError::New(info.Env(), "expected a typed array");
    return {data, info[i].As<Napi::TypedArray>().ByteLength()};
  }
};

Problem problem_of(int status) { return Problem::of(status, *cuda_api()->operations, cuda_api()); }

Napi::Value bigint(Napi::Env env, const void* pointer) {
  return Napi::BigInt::New(env, static_cast<uint64_t>(reinterpret_cast<uintptr_t>(pointer)));
}

// What a function returns: its value, or the error in its place.
template <class F>
Napi::Value value_or_problem(Napi::Env env, int status, F&& value) {
  return status == GRPO_OK ? value() : problem_of(status).value(env);
}

// Waits on a thread of libuv's pool; the promise resolves to undefined or the error.
class Waiter : public Napi::AsyncWorker {
 public:
  Waiter(Napi::Env env, Napi::Value kept, std::function<int()> wait)
      : AsyncWorker(env, "grpo-kernels"), deferred_(Napi::Promise::Deferred::New(env)), wait_(std::move(wait)) {
    if (kept.IsObject()) kept_ = Napi::Persistent(kept.As<Napi::Object>());
  }
  void Execute() override { problem_ = problem_of(wait_()); }
  void OnOK() override { deferred_.Resolve(problem_.value(Env())); }
  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }
  Napi::Value start() {
    Napi::Value promise = deferred_.Promise();
    Queue();  // deletes itself when done
    return promise;
  }

 private:
  Napi::Promise::Deferred deferred_;
  Napi::ObjectReference kept_;  // the host memory that is written
  std::function<int()> wait_;
  Problem problem_;
};

Napi::Value device_count(const Napi::CallbackInfo& info) {
  const char* reason = nullptr;
  Napi::Object found = Napi::Object::New(info.Env());
  found.Set("count", cuda_api()->device_count(&reason));
  found.Set("reason", reason == nullptr ? "" : reason);
  return found;
}

Napi::Value device(const Napi::CallbackInfo& info) {
  grpo_device found{};
  return value_or_problem(info.Env(), cuda_api()->device(Arguments{info}.device(0), &found), [&]() -> Napi::Value {
    Napi::Object device = Napi::Object::New(info.Env());
    device.Set("name", found.name);
    device.Set("computeCapability", std::to_string(found.major) + "." + std::to_string(found.minor));
    device.Set("multiprocessors", found.multiprocessors);
    device.Set("memory", static_cast<double>(found.memory));
    return device;
  });
}

// allocate(device, bytes, stream): the address. The bytes count for the garbage collector, which sees only small
// objects.
Napi::Value allocate(const Napi::CallbackInfo& info) {
  const Arguments given{info};
  void* memory = nullptr;
  const int status = cuda_api()->allocate(given.device(0), given.bytes(1), given.pointer(2), &memory);
  return value_or_problem(info.Env(), status, [&] {
    Napi::MemoryManagement::AdjustExternalMemory(info.Env(), static_cast<int64_t>(given.bytes(1)));
    held(info.Env()).memory[memory] = given.device(0);
    return bigint(info.Env(), memory);
  });
}

// release(device, bytes, stream, address)
Napi::Value release(const Napi::CallbackInfo& info) {
  const Arguments given{info};
  Napi::MemoryManagement::AdjustExternalMemory(info.Env(), -static_cast<int64_t>(given.bytes(1)));
  held(info.Env()).memory.erase(given.pointer(3));
  return problem_of(cuda_api()->release(given.device(0), given.pointer(3), given.pointer(2))).value(info.Env());
}

// upload(device, address, data, stream)
Napi::Value upload(const Napi::CallbackInfo& info) {
  const Arguments given{info};
  const auto [data, bytes] = given.memory(2);
  const int status = cuda_api()->upload(given.device(0), given.pointer(1), data, bytes, given.pointer(3));
  return problem_of(status).value(info.Env());
}

// download(device, address, data, stream)
Napi::Value download(const Napi::CallbackInfo& info) {
  const Arguments given{info};
  const auto [data, bytes] = given.memory(2);
  const int status = cuda_api()->download(given.device(0), data, given.pointer(1), bytes, given.pointer(3));
  return problem_of(status).value(info.Env());
}

Napi::Value download_async(const Napi::CallbackInfo& info) {
  const Arguments given{info};
  const auto [data, bytes] = given.memory(2);
  auto wait = [device = given.device(0), to = data, from = given.pointer(1), size = bytes, stream = given.pointer(3)] {
    return cuda_api()->download(device, to, from, size, stream);
  };
  return (new Waiter(info.Env(), info[2], wait))->start();
}

// waitAsync(event)
Napi::Value wait_async(const Napi::CallbackInfo& info) {
  auto wait = [event = Arguments{info}.pointer(0)] { return cuda_api()->wait_on_host(event); };
  return (new Waiter(info.Env(), info.Env().Undefined(), wait))->start();
}

// trimAsync(device): after what was enqueued on the library's own stream, so that releases among it count.
Napi::Value trim_async(const Napi::CallbackInfo& info) {
  auto wait = [device = Arguments{info}.device(0)] {
    const int status = cuda_api()->synchronize(device, nullptr);
    return status == GRPO_OK ? cuda_api()->trim(device) : status;
  };
  return (new Waiter(info.Env(), info.Env().Undefined(), wait))->start();
}

// synchronizeAsync(device, stream)
Napi::Value synchronize_async(const Napi::CallbackInfo& info) {
  auto wait = [device = Arguments{info}.device(0), stream = Arguments{info}.pointer(1)] {
    return cuda_api()->synchronize(device, stream);
  };
  return (new Waiter(info.Env(), info.Env().Undefined(), wait))->start();
}

Napi::Value device_of_memory(const Napi::CallbackInfo& info) {
  int32_t device = -1;
  const int status = cuda_api()->device_of_memory(Arguments{info}.pointer(0), &device);
  return value_or_problem(info.Env(), status, [&] { return Napi::Number::New(info.Env(), device); });
}

Napi::Value device_of_stream(const Napi::CallbackInfo& info) {
  int32_t device = -1;
  const int status = cuda_api()->device_of_stream(Arguments{info}.pointer(0), &device);
  return value_or_problem(info.Env(), status, [&] { return Napi::Number::New(info.Env(), device); });
}

// record(device, stream): a new event
Napi::Value record(const Napi::CallbackInfo& info) {
  void* event = nullptr;
  const int status = cuda_api()->record(Arguments{info}.device(0), &event, Arguments{info}.pointer(1));
  return value_or_problem(info.Env(), status, [&] {
    held(info.Env()).events[event] = Arguments{info}.device(0);
    return bigint(info.Env(), event);
  });
}

// wait(device, stream, event)
Napi::Value wait(const Napi::CallbackInfo& info) {
  const Arguments given{info};
  return problem_of(cuda_api()->wait(given.device(0), given.pointer(1), given.pointer(2))).value(info.Env());
}

Napi::Value destroy_event(const Napi::CallbackInfo& info) {
  held(info.Env()).events.erase(Arguments{info}.pointer(0));
  return problem_of(cuda_api()->destroy_event(Arguments{info}.pointer(0))).value(info.Env());
}

// recordTime(device, stream): a new event that knows when it was reached
Napi::Value record_time(const Napi::CallbackInfo& info) {
  void* event = nullptr;
  const int status = cuda_api()->record_time(Arguments{info}.device(0), &event, Arguments{info}.pointer(1));
  return value_or_problem(info.Env(), status, [&] {
    held(info.Env()).events[event] = Arguments{info}.device(0);
    return bigint(info.Env(), event);
  });
}

// secondsBetween(event, event): waits for the second
Napi::Value seconds_between(const Napi::CallbackInfo& info) {
  double seconds = 0;
  const int status = cuda_api()->seconds_between(Arguments{info}.pointer(0), Arguments{info}.pointer(1), &seconds);
  return value_or_problem(info.Env(), status, [&] { return Napi::Number::New(info.Env(), seconds); });
}

Napi::Value versions(const Napi::CallbackInfo& info) {
  int32_t driver = 0, runtime = 0;
  return value_or_problem(info.Env(), cuda_api()->versions(&driver, &runtime), [&]() -> Napi::Value {
    Napi::Object found = Napi::Object::New(info.Env());
    found.Set("driver", driver);
    found.Set("runtime", runtime);
    return found;
  });
}

// selfTest(device): { section: hash, ... }
Napi::Value self_test(const Napi::CallbackInfo& info) {
  Napi::Object found = Napi::Object::New(info.Env());
  const auto visit = [](void* context, const char* section, uint64_t hash) {
    char digits[17];
    std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash));
    static_cast<Napi::Object*>(context)->Set(section, std::string(digits));
  };
  return value_or_problem(info.Env(), cuda_api()->self_test(Arguments{info}.device(0), visit, &found),
                          [&] { return found; });
}

}  // namespace

const grpo_cuda_api* cuda_api() { return loaded; }

void* pointer_of(Napi::Env env, const Napi::Value& value) {
  bool lossless = false;
  uint64_t pointer = 0;
  if (napi_get_value_bigint_uint64(env, value, &pointer, &lossless) != napi_ok)
    throw Napi::TypeError::New(env, "expected a bigint");
  return reinterpret_cast<void*>(static_cast<uintptr_t>(pointer));
}

Problem Problem::of(int status, const grpo_api& operations, const grpo_cuda_api* cuda) {
  Problem problem;
  problem.status = status;
  if (status == GRPO_OK) return problem;
  grpo_error error;
  operations.last_error(&error);
  problem.argument = error.argument, problem.text = error.problem;
  if (cuda != nullptr) problem.cuda_code = cuda->cuda_code();
  return problem;
}

Napi::Value Problem::value(Napi::Env env) const {
  if (status == GRPO_OK) return env.Undefined();
  Napi::Object error = Napi::Object::New(env);
  error.Set("status", status);
  error.Set("argument", argument);
  error.Set("problem", text);
  error.Set("cudaCode", cuda_code);
  return error;
}

void add_cuda(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Held);  // destroyed after the calls that are under way on other threads
  Napi::Object cuda = Napi::Object::New(env);
  const auto add = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
    cuda.Set(name, Napi::Function::New(env, function, name));
  };
  add("load", load);
  add("operations", [](const Napi::CallbackInfo& info) { return operations(info.Env(), *cuda_api()->operations); });
  add("deviceCount", device_count);
  add("device", device);
  add("allocate", allocate);
  add("release", release);
  add("upload", upload);
  add("download", download);
  add("downloadAsync", download_async);
  add("waitAsync", wait_async);
  add("synchronizeAsync", synchronize_async);
  add("trimAsync", trim_async);
  add("deviceOfMemory", device_of_memory);
  add("deviceOfStream", device_of_stream);
  add("record", record);
  add("wait", wait);
  add("destroyEvent", destroy_event);
  add("recordTime", record_time);
  add("secondsBetween", seconds_between);
  add("versions", versions);
  add("selfTest", self_test);
  exports.Set("cuda", cuda);
}

}  // namespace grpo
