// What the C interface does not show: the quota of a control group, and when the pool's threads end. Compiled with
// native/parallel/ alone by test/package/library.mjs and c_interface.test.ts; its argument is a folder for files, a second
// one asks for the pauses of seconds as well.
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "parallel/parallel.h"
#include "platform/processors.h"

namespace {

int failures = 0;

template <class T>
void expect(T value, T expected, const char* what) {
  if (value == expected) return;
  ++failures;
  std::printf("failed: %s: %d, expected %d\n", what, static_cast<int>(value), static_cast<int>(expected));
}

std::string root;

void write(const std::string& path, const std::string& text) {
  const std::filesystem::path file = root + path;
  std::filesystem::create_directories(file.parent_path());
  std::ofstream(file) << text;
}

void quotas() {
  using grpo::quota;
  expect(quota("", root), 0, "no control groups");
  expect(quota("nonsense\n0:\n:::\n0::no slash\n", root), 0, "lines that are none");
  write("/cpu.max", "max 100000\n");
  expect(quota("0::/\n", root), 0, "version 2 without a quota");
  write("/cpu.max", "200000 100000\n");
  expect(quota("0::/\n", root), 2, "version 2");
  write("/cpu.max", "150000 100000\n");
  expect(quota("0::/\n", root), 2, "one and a half processors");
  write("/cpu.max", "1000 100000\n");
  expect(quota("0::/\n", root), 1, "a hundredth of one");
  write("/cpu.max", "800000 100000\n");
  write("/slice/cpu.max", "300000 100000\n");
  write("/slice/unit/cpu.max", "max 100000\n");
  expect(quota("0::/slice/unit\n", root), 3, "the quota of a group above");
  expect(quota("0::/not/seen/in/the/container\n", root), 8, "a path from outside of the container");
  root += "/one";
  write("/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  write("/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  expect(quota("4:cpu,cpuacct:/\n", root), 0, "version 1 without a quota");
  write("/cpu,cpuacct/docker/1/cpu.cfs_quota_us", "400000\n");
  write("/cpu,cpuacct/docker/1/cpu.cfs_period_us", "100000\n");
  expect(quota("3:memory:/docker/1\n", root), 0, "another controller");
  expect(quota("5:cpuset:/docker/1\n4:cpu,cpuacct:/docker/1\n", root), 4, "version 1");
  write("/cpu/cpu.cfs_quota_us", "50000\n");
  write("/cpu/cpu.cfs_period_us", "100000\n");
  expect(quota("4:cpu,cpuacct:/docker/2\n", root), 1, "version 1 in a container");
  write("/unified/cpu.max", "250000 100000\n");
  expect(quota("0::/\n", root), 3, "version 2 beside version 1");
}

// Keeps every thread at work for a moment.
void work(int threads) {
  std::atomic<int> at_work{0};
  grpo::parallel_for(threads, 1, [&](int64_t, int64_t, int) {
    ++at_work;
    while (at_work < threads) std::this_thread::yield();
  });
}

bool within(double seconds, int threads) {
  for (int i = 0; i < 100 * seconds && grpo::threads_started() != threads; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  return grpo::threads_started() == threads;
}

void threads(bool pauses) {
  grpo::set_thread_count(6);
  expect(grpo::threads_started(), 0, "no thread before the first work");
  work(6);
  expect(grpo::threads_started(), 5, "a thread less than the count");
  grpo::set_thread_count(2);
  expect(within(5, 1), true, "threads beyond a lower count end");
  work(2);
  expect(grpo::threads_started(), 1, "and the rest works");
  grpo::set_thread_count(4);
  work(4);
  expect(grpo::threads_started(), 3, "and there may be more again");
  if (!pauses) return;
  expect(within(5, 0), false, "a short pause keeps them");
  expect(within(10, 0), true, "a long one does not");
  work(4);
  expect(grpo::threads_started(), 3, "they are started again");
}

}  // namespace

int main(int count, char** arguments) {
  root = arguments[1];
  quotas();
  threads(count > 2);
  std::printf("%s\n", failures == 0 ? "the thread pool works" : "the thread pool fails");
  return failures;
}
