// Streams and events of the simulated runtime: the order of work, and its running.
#include <algorithm>
#include <chrono>

#include "runtime_state.hpp"

using namespace simt::host;

namespace simt::host {

namespace {

double now() {
  using namespace std::chrono;
  return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

// ---- what is ordered before what: a race detector's vector clocks, with streams in place of threads -----------------

struct Ran {
  uint32_t stream;
  uint64_t number;  // in the stream
  Span span;
};
std::deque<Ran> ran;  // what touched memory, as long as something may come that is not ordered after it
Known host_known;     // what the host has waited for: ordered before all that it enqueues from then on
uint64_t enqueued = 0, finished = 0;

void learn(Known& known, const Known& other) {
  for (const auto& [stream, number] : other) {
    uint64_t& mine = known[stream];
    mine = std::max(mine, number);
  }
}

bool contains(const Known& known, const Ran& work) {
  const auto found = known.find(work.stream);
  return found != known.end() && found->second >= work.number;
}

std::vector<Span> not_before(const Known& known) {
  std::vector<Span> result;
  for (const Ran& work : ran)
    if (!contains(known, work)) result.push_back(work.span);
  return result;
}

void host_learns(const WorkPointer& work) {
  if (work == nullptr) return;
  learn(host_known, work->known);
  // What was enqueued before this wait may still not know.
  if (enqueued == finished) std::erase_if(ran, [](const Ran& past) { return contains(host_known, past); });
}

void touches(const Work& work, uint32_t stream, const std::function<void()>& body) {
  constexpr size_t kMost = 4096;  // older ones count as ordered
  begin_work(not_before(work.known));
  body();
  ran.push_back({stream, work.known.at(stream), end_work()});
  if (ran.size() > kMost) ran.pop_front();
}

}  // namespace

void run(const WorkPointer& wanted) {
  if (wanted == nullptr) return;
  // Without recursion: streams may be long.
  std::vector<WorkPointer> stack{wanted};
  while (!stack.empty()) {
    const WorkPointer top = stack.back();
    while (!top->after.empty() && top->after.back()->done) top->after.pop_back();
    if (!top->done && !top->after.empty()) {
      stack.push_back(top->after.back());
      continue;
    }
    stack.pop_back();
    if (top->done) continue;
    top->done = true;
    ++finished;
    if (top->body) touches(*top, top->stream, std::exchange(top->body, nullptr));
    top->milliseconds = now();
  }
  host_learns(wanted);
}

void run_device(int id) {
  Device& device = state().devices[id];
  // Youngest first: nobody may rely on the order in which streams were made.
  for (size_t i = device.streams.size(); i-- > 0;) run(device.streams[i]->last);
  run(device.legacy.last);
  for (const WorkPointer& work : std::exchange(device.left, {})) run(work);
}

cudaError_t outcome(int id) {
  return std::exchange(state().devices[id].failed, false) ? cudaErrorLaunchFailure : cudaSuccess;
}

CUstream_st* stream_of(cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy) return &state().devices[current_device].legacy;
  for (Device& device : state().devices)
    if (std::find(device.streams.begin(), device.streams.end(), handle) != device.streams.end()) return handle;
  return nullptr;
}

WorkPointer enqueue(CUstream_st& stream, std::function<void()> body, WorkPointer also) {
  Device& device = state().devices[stream.device];
  auto work = std::make_shared<Work>();
  work->device = stream.device;
  work->stream = stream.number;
  work->body = std::move(body);
  work->known = host_known;
  const auto after = [&](const WorkPointer& before) {
    if (before == nullptr) return;
    learn(work->known, before->known);
    if (!before->done) work->after.push_back(before);
  };
  after(stream.last);
  after(also);
  if (&stream == &device.legacy) {
    for (const CUstream_st* other : device.streams)
      if (other->blocking) after(other->last);
    for (const WorkPointer& left : std::exchange(device.left, {})) after(left);
  } else if (stream.blocking) {
    after(device.legacy.last);
  }
  work->known[stream.number] = ++stream.works;
  ++enqueued;
  return stream.last = work;
}

void happens_now(CUstream_st& stream, const std::function<void()>& body) {
  touches(*enqueue(stream, nullptr), stream.number, body);
}

WorkPointer last_of(CUstream_st& stream) {
  return &stream == &state().devices[stream.device].legacy ? enqueue(stream, nullptr) : stream.last;
}

void failed(int device, std::string text) {
  State& all = state();
  if (all.devices[device].failed) return;
  all.devices[device].failed = true;
  all.texts.push_back(std::move(text));
}

}  // namespace simt::host

// ---- streams --------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return call([&] {
    if (flags > cudaStreamNonBlocking) return cudaErrorInvalidValue;
    *stream = new CUstream_st{current_device, flags == cudaStreamDefault, nullptr, state().streams++};
    state().devices[current_device].streams.push_back(*stream);
    return cudaSuccess;
  });
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  return call([&] {
    CUstream_st* const known = stream_of(stream);
    if (known == nullptr || known->blocking) return cudaErrorInvalidResourceHandle;
    known->captured = true;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  return call([&] {
    const CUstream_st* const known = stream_of(stream);
    if (known == nullptr) return cudaErrorInvalidResourceHandle;
    *status = known->captured ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return call([&] {
    if (stream == nullptr || stream == cudaStreamLegacy || stream_of(stream) == nullptr)
      return cudaErrorInvalidResourceHandle;
    Device& device = state().devices[stream->device];
    // Its work goes on without it. That of a stream which does not block is left to a wait for the device as well.
    if (stream->last != nullptr) device.left.push_back(stream->last);
    std::erase(device.streams, stream);
    delete stream;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return call([&] {
    CUstream_st* const known = stream_of(stream);
    if (known == nullptr) return cudaErrorInvalidResourceHandle;
    run(last_of(*known));
    return outcome(known->device);
  });
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return call([&] {
    CUstream_st* const known = stream_of(stream);
    if (known == nullptr) return cudaErrorInvalidResourceHandle;
    if (known->last == nullptr || known->last->done) {
      run(known->last);
      return outcome(known->device);
    }
    run(last_of(*known));
    return cudaErrorNotReady;
  });
}

cudaError_t cudaStreamGetDevice(cudaStream_t stream, int* device) {
  return call([&] {
    const CUstream_st* const known = stream_of(stream);
    if (known == nullptr) return cudaErrorInvalidResourceHandle;
    *device = known->device;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  return call([&] {
    CUstream_st* const known = stream_of(stream);
    if (known == nullptr || state().events.count(event) == 0) return cudaErrorInvalidResourceHandle;
    if (event->recorded != nullptr) enqueue(*known, nullptr, event->recorded);
    return cudaSuccess;
  });
}

// ---- events ---------------------------------------------------------------------------------------------------------

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return call([&] {
    *event = new CUevent_st{current_device, (flags & cudaEventDisableTiming) == 0, nullptr};
    state().events.insert(*event);
    return cudaSuccess;
  });
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return call([&] {
    CUstream_st* const known = stream_of(stream);
    if (known == nullptr || state().events.count(event) == 0 || event->device != known->device)
      return cudaErrorInvalidResourceHandle;
    event->recorded = enqueue(*known, nullptr);
    return cudaSuccess;
  });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return call([&] {
    if (state().events.count(event) == 0) return cudaErrorInvalidResourceHandle;
    const bool ready = event->recorded == nullptr || event->recorded->done;
    run(event->recorded);
    return ready ? outcome(event->device) : cudaErrorNotReady;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return call([&] {
    if (state().events.count(event) == 0) return cudaErrorInvalidResourceHandle;
    run(event->recorded);
    return outcome(event->device);
  });
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return call([&] {
    if (state().events.erase(event) == 0) return gone("cudaEventDestroy", cudaErrorInvalidResourceHandle);
    delete event;
    return cudaSuccess;
  });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  return call([&] {
    for (const cudaEvent_t event : {start, end})
      if (state().events.count(event) == 0 || !event->timed || event->recorded == nullptr)
        return cudaErrorInvalidResourceHandle;
    if (!start->recorded->done || !end->recorded->done) return cudaErrorNotReady;
    *milliseconds = static_cast<float>(end->recorded->milliseconds - start->recorded->milliseconds);
    return cudaSuccess;
  });
}
