// Which instruction set's table is in use.
#include "vector/vector.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iterator>

namespace grpo {

extern const VectorKernels baseline_kernels;
extern const VectorKernels avx2_kernels;
extern const VectorKernels avx512_kernels;
extern const VectorKernels avx512_bf16_kernels;
extern const VectorKernels amx_kernels;

namespace {

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

bool has_tiles() {
  unsigned eax, ebx, ecx, edx;
  constexpr unsigned kTilesOfBf16 = 1u << 22 | 1u << 24;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & kTilesOfBf16) == kTilesOfBf16;
}

// Processors with tiles have the other instruction for compatibility alone: on Sapphire Rapids it ends a quarter as often
// as a multiply-add of float32, with twice the products.
bool is_fast(const VectorKernels* kernels) { return kernels != &avx512_bf16_kernels || !has_tiles(); }

// The registers of AMX are there for those who ask the system for them, and not where a thread's stack for signals would
// have no room for them.
bool has_amx() {
#if defined(__linux__)
  constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return has_avx512_bf16() && has_tiles() && syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
  return false;
#endif
}
#else
bool is_fast(const VectorKernels*) { return true; }
#endif

bool always() { return true; }

struct InstructionSet {
  const VectorKernels* kernels;
  bool (*available)();
};

// Best first.
constexpr InstructionSet kInstructionSets[] = {
#if defined(__x86_64__)
    {&amx_kernels, has_amx},
    {&avx512_bf16_kernels, has_avx512_bf16},
    {&avx512_kernels, has_avx512},
    {&avx2_kernels, has_avx2},
#endif
    {&baseline_kernels, always},
};

// The best for null. The last is the baseline everywhere, whatever it is called.
const VectorKernels* find(const char* name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  for (const auto& [kernels, available] : kInstructionSets) {
    const bool fits = name == nullptr ? is_fast(kernels) : std::strcmp(name, kernels->name) == 0;
    if (fits && available()) return kernels;
  }
  return name != nullptr && std::strcmp(name, "baseline") == 0 ? &baseline_kernels : nullptr;
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
  if (best->lanes < avx512_kernels.lanes) widest = &avx512_kernels;
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
    for (auto set = std::rbegin(kInstructionSets); set != std::rend(kInstructionSets); ++set)
      if (set->available() && names != set->kernels->name) names += std::string(", ") + set->kernels->name;
    return std::string("is \"") + wanted() + "\", expected one that this processor has: " + names;
  }();
  return problem;
}

}  // namespace grpo
