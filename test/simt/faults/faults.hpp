// The planted faults of faults/*.cu, as faults.cc runs them.
#pragma once

#include <cstddef>
#include <cstdint>

struct FaultArgs {
  const float* in;        // [1024], initialised: 0, 1, 2, ...
  const float* raw;       // [1024], uninitialised
  const float* edge;      // [1022], initialised
  const float* released;  // [1024], released before the launch
  float* out;             // [1024]
  uint32_t* counter;      // [5], zeros
  bool right;             // run the correct twin instead
};

struct Fault {
  const char* name;
  uint32_t blocks, threads, cluster;
  uint64_t shared;
  void (*body)(const void* args);  // FaultArgs
};
struct FaultList {
  Fault faults[32];
  size_t count;
};
extern const FaultList kBarrierFaults, kMemoryFaults, kCopyFaults, kBulkFaults, kClusterFaults, kBlockFaults, kEndlessFaults;
