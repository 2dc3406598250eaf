// What the interpreter's parts, its device header (cuda.hpp), its host API (runtime.hpp) and the simulated bodies of
// cuda/launch/ptx.cuh know of each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace simt {

// ---- running a grid (sched) -----------------------------------------------------------------------------------------

struct Grid {
  const char* kernel;  // its name, for reports
  uint32_t blocks;     // one axis only: grid.y and grid.z stop at 65535
  uint32_t threads;    // per block
  size_t shared;       // bytes of dynamic shared memory
  uint32_t cluster;    // blocks per cluster; divides blocks
};

// Runs a grid to its end on the calling thread; one grid at a time in the process. body(args) is one CUDA thread.
// Returns false if a fault was reported: the grid was then given up, its outputs are undefined.
bool run(const Grid& grid, void (*body)(const void* args), const void* args, size_t args_size);

// ---- how it runs: set from GRPO_SIMT_SEED, GRPO_SIMT_COPIES (late, early, random), GRPO_SIMT_RACES (1, 0), --
// ---- GRPO_SIMT_SECONDS ----------------------------------------------------------------------------------------------

enum class Copies : uint8_t { kLate, kEarly, kRandom };
struct Mode {
  uint64_t seed = 1;
  Copies copies = Copies::kLate;
  bool races = true;
  uint64_t polls = 2'000'000;  // of a cluster in a row, in which no thread gets any further
  double seconds = 60;  // of processor time that a grid may take; one that takes more is said not to end
};
Mode& mode();

// ---- reports --------------------------------------------------------------------------------------------------------

struct Report {
  std::string kind;   // "race", "global out of bounds", "uninitialised read", "deadlock", ...
  std::string text;   // one or more lines, with file:line of every place that it names
};
// Called by any part: notes the fault of the running grid (the first counts) and makes run() give up.
[[noreturn]] void fault(const char* kind, std::string text);
// The faults since the last call, oldest first.
std::vector<Report> take_reports();
// "file.cu:12" for a return address; the address itself where there is no debug information.
std::string place(const void* return_address);

// ---- device memory (memory) -----------------------------------------------------------------------------------------

// Registered, 256 bytes of padding on each side, aligned to 256, filled with 0xCB, uninitialised for the detector.
void* allocate(size_t bytes);                       // null if the machine has none
bool release(void* pointer);                        // false if it is no allocation
// The allocation that [pointer, pointer + bytes) lies in, or null.
const void* allocation_of(const void* pointer, size_t bytes);
// The host wrote it (a copy, a memset): initialised from now on.
void host_wrote(void* pointer, size_t bytes);

// ---- order between grids (streams): for a runtime with several streams ----------------------------------------------

struct Span {
  uint64_t first, last;  // clocks of the detector
};
// What touches device memory until end_work() (a grid, a copy) is not ordered after what did so in these spans: if both
// touch the same bytes and one writes, that is a race between streams.
void begin_work(std::vector<Span> unordered);
Span end_work();
// The host touches the bytes in this work. Empty, or who else did: "..., which the kernel at x.cu:12 writes".
std::string touch(const void* pointer, size_t bytes, bool writes);

// ---- warp collectives (warp): the one primitive under shuffles, votes, ldmatrix, mma --------------------------------

// The lanes of a collective: in[lane] and out[lane] are what each caller passed, null for lanes outside the mask.
struct Lanes {
  uint32_t mask;
  const void* in[32];
  void* out[32];
  uint32_t thread[32];  // thread index in the block
};
// Blocks until every lane of `mask` has called with the same `name`; the last arriver runs compute for all. `order`:
// it also orders memory between the lanes (__syncwarp does, shuffles, votes, ldmatrix and mma do not). `where` is the
// return address of the wrapper that the kernel called.
void collective(const char* name, uint32_t mask, const void* in, void* out, void (*compute)(Lanes&), bool order,
                const void* where);

// ---- accesses that the runtime makes for a kernel (memory): as if the kernel had made them --------------------------

void on_read(const void* address, size_t bytes, uint32_t thread, const void* where);
void on_write(void* address, size_t bytes, uint32_t thread, const void* where);
uint32_t this_thread();                             // index in the block
uint32_t this_block();                              // index in the grid

}  // namespace simt
