// One small thread pool for the whole process, and scratch memory that is counted.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <type_traits>

namespace grpo {

// Threads that parallel_for uses, the calling one included. Starts at processors().
int thread_count();
void set_thread_count(int count);
// Of the pool, alive: the callers' own are not counted. They end when the count is lowered, or after ten idle seconds.
int threads_started();

// While one lives, thread_count() stays what it was on this thread: scratch per worker and parallel_for agree
// even if another thread changes the count in between. The C interface holds one for every call.
struct FixedThreads {
  FixedThreads();
  ~FixedThreads();
};

// The call's AbortSignal: null, or set to true from another thread to stop at the next piece of work.
extern thread_local const std::atomic<bool>* cancel_flag;
inline bool cancelled() { return cancel_flag != nullptr && cancel_flag->load(std::memory_order_relaxed); }

using Body = void (*)(void* context, int64_t begin, int64_t end, int worker);
void parallel_for_pieces(int64_t count, int64_t piece, Body body, void* context);

// Calls body(begin, end, worker) until [0, count) is covered, in pieces of at most `piece`, on all threads.
// Which thread takes which piece changes from run to run, so a body may only write what belongs to its piece,
// and use scratch number `worker` (0 <= worker < thread_count()). body must not throw, nor call parallel_for.
// Returns when all pieces are done; after a cancel the remaining pieces are left out.
template <class F>
void parallel_for(int64_t count, int64_t piece, F&& body) {
  parallel_for_pieces(
      count, piece,
      [](void* context, int64_t begin, int64_t end, int worker) {
        (*static_cast<std::remove_reference_t<F>*>(context))(begin, end, worker);
      },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// Bytes of scratch alive now and at the highest point since the last reset; the tests hold them against `plan`.
int64_t scratch_bytes();
int64_t scratch_peak(bool reset);
void* scratch_allocate(int64_t bytes);  // 64-byte aligned; throws std::bad_alloc, which the C interface reports
void scratch_release(void* pointer, int64_t bytes);

// Uninitialised memory for the duration of a call.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : bytes_(count * int64_t{sizeof(T)}), data_(static_cast<T*>(scratch_allocate(bytes_))) {}
  ~Scratch() { scratch_release(data_, bytes_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* data() { return data_; }
  T& operator[](int64_t i) { return data_[i]; }

 private:
  int64_t bytes_;
  T* data_;
};

}  // namespace grpo
