#include "platform/processors.h"

#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <sstream>
#include <thread>
#include <vector>

namespace grpo {
namespace {

std::string contents(const std::string& path) {
  std::string text;
  std::FILE* file = std::fopen(path.c_str(), "re");
  if (file == nullptr) return text;
  char piece[4096];
  while (const size_t count = std::fread(piece, 1, sizeof piece, file)) text.append(piece, count);
  std::fclose(file);
  return text;
}

// Microseconds of processor time that a group may use in each period, from a text "QUOTA PERIOD". "max" (version 2) and
// -1 (version 1) are no quota, and neither is a file that is not there.
int processors_of(const std::string& text) {
  std::istringstream words(text);
  double quota = 0, period = 0;
  if (!(words >> quota >> period) || quota <= 0 || period <= 0) return 0;
  return static_cast<int>(std::ceil(std::min(quota / period, 1e6)));
}

// Whether "cpu,cpuacct" has that name.
bool lists(const std::string& names, const std::string& wanted) {
  std::istringstream stream(names);
  for (std::string name; std::getline(stream, name, ',');)
    if (name == wanted) return true;
  return false;
}

}  // namespace

int quota(const std::string& groups, const std::string& root) {
  int tightest = 0;
  std::istringstream lines(groups);
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string names = line.substr(first + 1, second - first - 1);
    // "0::/path" is version 2, which is mounted at the root, or in `unified` where both are; "4:cpu,cpuacct:/path" is
    // version 1, mounted in a folder of its controllers, with a link of the name of each.
    const bool unified = names.empty();
    if (!unified && !lists(names, "cpu")) continue;
    for (std::string path = line.substr(second + 1);; path.erase(path.rfind('/'))) {
      if (!path.empty() && path.back() == '/') path.pop_back();
      for (const std::string& mount : unified ? std::vector<std::string>{"", "/unified"}
                                              : std::vector<std::string>{"/cpu", "/" + names}) {
        const std::string folder = root + mount + path;
        const int allowed = processors_of(unified ? contents(folder + "/cpu.max")
                                                  : contents(folder + "/cpu.cfs_quota_us") +
                                                        contents(folder + "/cpu.cfs_period_us"));
        if (allowed != 0 && (tightest == 0 || allowed < tightest)) tightest = allowed;
      }
      if (path.find('/') == std::string::npos) break;
    }
  }
  return tightest;
}

int processors() {
  int count = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) count = std::max(1, CPU_COUNT(&set));
  const int allowed = quota(contents("/proc/self/cgroup"), "/sys/fs/cgroup");
  if (allowed != 0) count = std::min(count, allowed);
#endif
  return count;
}

}  // namespace grpo
