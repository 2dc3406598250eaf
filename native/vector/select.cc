// Which instruction set's table is in use.
#include "vector/vector.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace grpo {

extern const VectorKernels baseline_kernels;
extern const VectorKernels avx2_kernels;
extern const VectorKernels avx512_kernels;

namespace {

// Best first; null where this processor lacks it.
const VectorKernels* available(int rank) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (rank == 0) {
    const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return has ? &avx512_kernels : nullptr;
  }
  if (rank == 1) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &avx2_kernels : nullptr;
#endif
  return rank == 2 ? &baseline_kernels : nullptr;
}

const VectorKernels* find(const char* name) {
  for (int rank = 0; rank < 3; ++rank) {
    const VectorKernels* kernels = available(rank);
    if (kernels == nullptr) continue;
    if (name == nullptr || std::strcmp(name, kernels->name) == 0) return kernels;
    // The last is the baseline everywhere, whatever it is called.
    if (rank == 2 && std::strcmp(name, "baseline") == 0) return kernels;
  }
  return nullptr;
}

// Null if it is absent or empty.
const char* wanted() {
  const char* name = std::getenv("GRPO_KERNELS_ISA");
  return name == nullptr || *name == 0 ? nullptr : name;
}

// Where the name is none, no operation runs: see instruction_set_problem().
const VectorKernels* initial() {
  const VectorKernels* kernels = find(wanted());
  return kernels != nullptr ? kernels : find(nullptr);
}

// Null until it is first asked for. Not a static of a function: its guard could be taken when another thread forks, and
// the child would wait for it.
std::atomic<const VectorKernels*> in_use{nullptr};

}  // namespace

const VectorKernels& vector_kernels() {
  const VectorKernels* kernels = in_use.load(std::memory_order_acquire);
  if (kernels != nullptr) return *kernels;
  const VectorKernels* first = initial();
  return in_use.compare_exchange_strong(kernels, first) ? *first : *kernels;
}

bool set_instruction_set(const char* name) {
  const VectorKernels* kernels = find(name);
  if (kernels == nullptr) return false;
  in_use.store(kernels, std::memory_order_release);
  return true;
}

std::string why_not_wider() {
  const VectorKernels *best = find(nullptr), *widest = best;
#if defined(__x86_64__)
  widest = &avx512_kernels;
#endif
  const std::string in_use = vector_kernels().name;
  if (in_use != best->name)
    return in_use + " was chosen (cpu.instructionSet, GRPO_KERNELS_ISA) where the processor has " + best->name;
  return best == widest ? "" : std::string("the processor has no ") + widest->name;
}

const std::string& instruction_set_problem() {
  static const std::string problem = [] {
    if (find(wanted()) != nullptr) return std::string();
    std::string names = "baseline";
    for (int rank = 2; rank >= 0; --rank)
      if (const VectorKernels* kernels = available(rank); kernels != nullptr && names != kernels->name)
        names += std::string(", ") + kernels->name;
    return std::string("is \"") + wanted() + "\", expected one that this processor has: " + names;
  }();
  return problem;
}

}  // namespace grpo
