#include "parallel/parallel.h"

#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

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

// Never destroyed: its threads may still wait here while the process exits. One job at a time: a second caller
// works alone on its own thread meanwhile, so that no call ever waits for another.
struct Pool {
  std::mutex turn;
  std::mutex mutex;
  std::condition_variable wake, done;
  Job* job = nullptr;
  int threads = 0;  // started; fewer than wanted where the system gives no more
  int limit = 1;    // helpers that the current job may have

  void start(int wanted) {
    try {
      for (; threads < wanted; ++threads) std::thread([this] { loop(); }).detach();
    } catch (const std::system_error&) {
    }
  }

  void loop() {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      wake.wait(lock, [this] { return job != nullptr && job->workers < limit && job->next < job->count; });
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

Pool& pool() {
  static Pool* instance = new Pool;
  return *instance;
}

int processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

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

void set_thread_count(int count) { threads_wanted.store(std::clamp(count, 1, 1024)); }

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
    p.start(helpers);
    p.limit = helpers;
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
  void* pointer = std::aligned_alloc(64, static_cast<size_t>((bytes + 63) / 64 * 64 + (bytes == 0) * 64));
  if (pointer == nullptr) throw std::bad_alloc();
  const int64_t now = scratch_now += bytes;
  int64_t high = scratch_high.load();
  while (now > high && !scratch_high.compare_exchange_weak(high, now)) {
  }
  return pointer;
}

void scratch_release(void* pointer, int64_t bytes) {
  std::free(pointer);
  scratch_now -= bytes;
}

}  // namespace grpo
