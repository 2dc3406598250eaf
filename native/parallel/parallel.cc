#include "parallel/parallel.h"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#include "platform/large_pages.h"
#include "platform/processors.h"

namespace grpo {

thread_local const std::atomic<bool>* cancel_flag = nullptr;

namespace {

// A piece of work is taken by whoever comes first. `next` is the only contended word.
struct Job {
  Body body;
  void* context;
  int64_t count;
  int64_t piece;
  const std::atomic<bool>* cancel;
  std::atomic<int64_t> next{0};
  int workers = 0;  // numbers handed out to pool threads; 0 is the caller. This and the next: the pool's mutex
  int running = 0;  // pool threads inside the job
};

void work(Job& job, int worker) {
  const std::atomic<bool>* before = cancel_flag;
  cancel_flag = job.cancel;
  while (!cancelled()) {
    const int64_t begin = job.next.fetch_add(job.piece, std::memory_order_relaxed);
    if (begin >= job.count) break;
    job.body(job.context, begin, std::min(begin + job.piece, job.count), worker);
  }
  cancel_flag = before;
}

// A thread that has had nothing to do for so long ends: longer than the pauses within a step of training.
constexpr std::chrono::seconds kIdle{10};

// Never destroyed: its threads may still wait here while the process exits. One job at a time: a second caller
// works alone on its own thread meanwhile, so that no call ever waits for another.
struct Pool {
  std::mutex turn;
  std::mutex mutex;
  std::condition_variable wake, done;
  Job* job = nullptr;
  int threads = 0;  // started; fewer than wanted where the system gives no more
  int keep = 0;     // threads beyond these end
  int limit = 1;    // helpers that the current job may have

  void start(int wanted) {
    try {
      for (; threads < wanted; ++threads) std::thread([this] { loop(); }).detach();
    } catch (const std::system_error&) {
    }
  }

  // Threads beyond `count` end, those at work when the job is done.
  void shrink(int count) {
    std::lock_guard<std::mutex> lock(mutex);
    keep = std::min(keep, count);
    wake.notify_all();
  }

  void loop() {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      const auto has_work = [this] { return job != nullptr && job->workers < limit && job->next < job->count; };
      // By the system's clock: waiting by the steady one needs glibc 2.30. A clock that is set ends a thread too early.
      const auto end = std::chrono::system_clock::now() + kIdle;
      const bool called = wake.wait_until(lock, end, [&] { return threads > keep || has_work(); });
      if (!called || threads > keep) return static_cast<void>(--threads);
      Job& current = *job;
      ++current.running;
      const int worker = ++current.workers;
      lock.unlock();
      work(current, worker);
      lock.lock();
      --current.running;
      done.notify_all();
    }
  }
};

std::atomic<Pool*> current_pool{nullptr};

// Not a static of this function: its guard could be taken when another thread forks, and the child would wait for it.
Pool& pool() {
  Pool* instance = current_pool.load();
  if (instance != nullptr) return *instance;
  Pool* own = new Pool;
  if (current_pool.compare_exchange_strong(instance, own)) return *own;
  delete own;
  return *instance;
}

#if defined(__unix__) || defined(__APPLE__)
// A child of fork() has none of the pool's threads, and its mutexes as they were, perhaps locked by a thread that is not
// there: it begins with a pool of its own, and the other stays where it is.
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] { current_pool.store(nullptr); });
#endif

std::atomic<int> threads_wanted{0};
std::atomic<int64_t> scratch_now{0}, scratch_high{0};
thread_local int call_threads = 0;

}  // namespace

int thread_count() {
  if (call_threads != 0) return call_threads;
  int count = threads_wanted.load();
  if (count == 0) threads_wanted.store(count = processors());
  return count;
}

FixedThreads::FixedThreads() { call_threads = thread_count(); }
FixedThreads::~FixedThreads() { call_threads = 0; }

void set_thread_count(int count) {
  threads_wanted.store(std::clamp(count, 1, 1024));
  pool().shrink(threads_wanted.load() - 1);
}

int threads_started() {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  return p.threads;
}

void parallel_for_pieces(int64_t count, int64_t piece, Body body, void* context) {
  if (count <= 0) return;
  Job job;
  job.body = body, job.context = context, job.count = count, job.piece = std::max<int64_t>(1, piece);
  job.cancel = cancel_flag;
  const int helpers = thread_count() - 1;
  if (helpers == 0 || count <= job.piece) return work(job, 0);

  Pool& p = pool();
  std::unique_lock<std::mutex> turn(p.turn, std::try_to_lock);
  if (!turn.owns_lock()) return work(job, 0);
  {
    std::lock_guard<std::mutex> lock(p.mutex);
    p.keep = p.limit = helpers;
    p.start(helpers);
    p.job = &job;
  }
  p.wake.notify_all();
  work(job, 0);
  std::unique_lock<std::mutex> lock(p.mutex);
  p.job = nullptr;  // nobody else joins; `job` lives on this stack, so wait for those inside
  p.done.wait(lock, [&job] { return job.running == 0; });
}

int64_t scratch_bytes() { return scratch_now.load(); }

int64_t scratch_peak(bool reset) { return reset ? scratch_high.exchange(scratch_now.load()) : scratch_high.load(); }

void* scratch_allocate(int64_t bytes) {
  alignas(64) static char nothing[64];
  if (bytes == 0) return nothing;
  void* pointer = std::aligned_alloc(64, static_cast<size_t>((bytes + 63) / 64 * 64));
  if (pointer == nullptr) throw std::bad_alloc();
  prefer_large_pages(pointer, bytes);
  const int64_t now = scratch_now += bytes;
  int64_t high = scratch_high.load();
  while (now > high && !scratch_high.compare_exchange_weak(high, now)) {
  }
  return pointer;
}

void scratch_release(void* pointer, int64_t bytes) {
  if (bytes == 0) return;
  std::free(pointer);
  scratch_now -= bytes;
}

}  // namespace grpo
