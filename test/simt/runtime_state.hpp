// What the files of the simulated runtime (runtime_*.cc) share: devices, streams of queued work, memory.
//
// A unit of work knows what has to come before it; a wait runs that and nothing else. Everything stands under one
// mutex, which is also held while a grid runs.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "runtime.hpp"
#include "simt.hpp"

namespace simt::host {

constexpr int kDevices = 2;
constexpr size_t kShared = 48 * 1024;  // bytes that a block has without asking

struct Work;
using WorkPointer = std::shared_ptr<Work>;
using Known = std::map<uint32_t, uint64_t>;  // stream: its works up to this one

struct Work {
  int device;
  uint32_t stream;                 // its number
  std::function<void()> body;      // empty once it has run
  std::vector<WorkPointer> after;  // what comes before it
  bool done = false;
  double milliseconds = 0;  // when it was done
  Known known;              // what comes before it, itself included, done or not
};

}  // namespace simt::host

struct CUstream_st {
  int device;
  bool blocking;  // ordered with the legacy default stream
  simt::host::WorkPointer last;
  uint32_t number;      // no two streams of the process have the same
  uint64_t works = 0;
  bool captured = false;
};

struct CUevent_st {
  int device;
  bool timed;
  simt::host::WorkPointer recorded;  // null: never, and waiting for it is nothing
};

struct CUmemPoolHandle_st {
  int device;
  size_t used = 0, held = 0;  // bytes: by allocations, and of the device
};

namespace simt::host {

struct Device {
  CUstream_st legacy{0, true, nullptr, 0};
  std::vector<cudaStream_t> streams;
  std::vector<WorkPointer> left;  // the last work of destroyed streams
  size_t used = 0;
  CUmemPoolHandle_st pool{0};
  bool failed = false;  // a grid had a fault that no wait has returned yet: grids after it do not run
};

struct Memory {
  int device;
  size_t bytes;
  bool freed = false;  // its release is queued
  cudaMemPool_t pool = nullptr;
  bool is_part = false;      // see part_of
  std::vector<void*> parts;
};

struct State {
  std::mutex mutex;
  Device devices[kDevices];
  uint32_t streams = kDevices;  // made so far
  std::map<const void*, Memory> memory;
  std::set<cudaEvent_t> events;
  std::map<std::pair<const void*, int>, int> shared_of_kernel;  // what cudaFuncSetAttribute granted on a device
  std::deque<std::string> texts;                                // of faults; never removed: callers keep the pointers
  std::string driver;
  int arch = 90;
  int largest_cluster = 8;  // GRPO_SIMT_CLUSTER: as on a part of a GPU
  int multiprocessors = 6;  // GRPO_SIMT_MULTIPROCESSORS; few: a grid of some blocks has more than one wave
  size_t capacity = size_t{8} << 30;
  State();
};

State& state();

extern thread_local int current_device;

cudaError_t noted(cudaError_t error);  // remembered for cudaGetLastError
cudaError_t driver_error();
// Of a call that names memory or an event that is gone: the error, and a line on stderr, for who gives things back at its
// end looks at no status. On a GPU they may be somebody else's by then.
cudaError_t gone(const char* call, cudaError_t error);
inline bool is_device(int id) { return id >= 0 && id < kDevices; }

// The body of a call: with a driver, under the mutex, its error remembered.
template <class F>
cudaError_t call(F&& body) {
  if (const cudaError_t error = driver_error()) return noted(error);
  const std::lock_guard<std::mutex> lock(state().mutex);
  return noted(body());
}

// ---- streams --------------------------------------------------------------------------------------------------------

// The host waits for `wanted`: it and all that comes before it runs.
void run(const WorkPointer& wanted);
void run_device(int id);
// What a wait on the device returns.
cudaError_t outcome(int id);
void failed(int device, std::string text);

// The stream behind a handle of the current device, or null.
CUstream_st* stream_of(cudaStream_t handle);
WorkPointer enqueue(CUstream_st& stream, std::function<void()> body, WorkPointer also = nullptr);
// The work before now that a wait for the stream waits for.
WorkPointer last_of(CUstream_st& stream);
// body() at the call, as a piece of the stream's work: an allocation, whose address is known before its turn has come.
void happens_now(CUstream_st& stream, const std::function<void()>& body);

// ---- launches -------------------------------------------------------------------------------------------------------

size_t most_shared();  // bytes that a block may have

}  // namespace simt::host
