// Which kernels a call would run and why not faster ones, told by the code that chooses.
#pragma once

#include <string>

#include "ops.h"

namespace grpo {

struct Path {
  std::string kernel, reason;

  void runs(const std::string& name) { add(kernel, name, ", "); }
  void because(const std::string& why) { add(reason, why, "; "); }

 private:
  // Once, however many launches it is.
  static void add(std::string& list, const std::string& what, const std::string& between) {
    if (what.empty() || (between + list + between).find(between + what + between) != std::string::npos) return;
    list += (list.empty() ? "" : between) + what;
  }
};

// Of operations that form log-probabilities and a loss of them.
constexpr char kTwoPasses[] =
    "a ratio of a sequence needs the log-probabilities of all its tokens first: a pass more than ratios of tokens take";

// Keeps the path for this thread and shows it to the caller.
int tell(Path path, grpo_path* to);

}  // namespace grpo
