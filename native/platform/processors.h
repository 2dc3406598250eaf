// How many processors this process may use.
#pragma once

#include <string>

namespace grpo {

// The lesser of the processors that it may run on and the quota of its control group, at least 1.
int processors();

// Processors that the quota of a control group allows, rounded up: with 1.5, a single thread could not use them.
// 0: no quota. `groups` is what /proc/self/cgroup holds, `root` where the file systems of both versions are mounted
// (/sys/fs/cgroup). The tightest of a group and those above it counts; in a container, which sees its own group at the
// root under a path from outside, that is the root's.
int quota(const std::string& groups, const std::string& root);

}  // namespace grpo
