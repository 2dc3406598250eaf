// The planted faults of faults.cu, as faults.cc runs them.
#pragma once

#include <cstdint>

struct FaultArgs {
  const float* in;    // [1024], initialised: 0, 1, 2, ...
  const float* raw;   // [1024], uninitialised
  float* out;         // [1024]
  uint32_t* counter;  // [4], zeros
  bool right;         // run the correct twin instead
};

struct Fault {
  const char* name;
  uint32_t blocks, threads, cluster;
  uint64_t shared;
  void (*body)(const void* args);  // FaultArgs
};
extern const Fault kFaults[];
extern const int kFaultCount;
