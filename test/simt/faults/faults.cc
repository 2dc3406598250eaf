// Runs each planted fault of faults/*.cu over 3 seeds x 3 copy modes, then its correct twin, and prints a line for each
// distinct result: "name: kind @ file:line" or "name: nothing"; twins are called "name (right)". With an argument, the
// full reports too.
#include "faults.hpp"

#include <cstdio>
#include <cstring>
#include <set>
#include <string>

#include "../simt.hpp"

namespace {

// The first place that the report names.
std::string place_in(const std::string& text) {
  const size_t at = text.find(".cu:");
  if (at == std::string::npos) return "nowhere";
  const size_t space = text.rfind(' ', at) + 1;
  return text.substr(space, text.find_first_not_of("0123456789", at + strlen(".cu:")) - space);
}

std::set<std::string> results(const Fault& fault, bool right, bool full) {
  std::set<std::string> seen;
  for (const simt::Copies copies : {simt::Copies::kLate, simt::Copies::kEarly, simt::Copies::kRandom})
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      simt::mode().copies = copies;
      simt::mode().seed = seed;
      const auto floats = [](int count, bool initialised) {
        const size_t bytes = static_cast<size_t>(count) * sizeof(float);
        auto* made = static_cast<float*>(simt::allocate(bytes));
        for (int k = 0; k < count && initialised; ++k) made[k] = static_cast<float>(k);
        if (initialised) simt::host_wrote(made, bytes);
        return made;
      };
      float *in = floats(1024, true), *raw = floats(1024, false), *edge = floats(1022, true);
      float *released = floats(1024, true), *out = floats(1024, false);
      auto* counter = static_cast<uint32_t*>(simt::allocate(20));
      memset(counter, 0, 20);
      simt::host_wrote(counter, 20);
      simt::release(released);
      const FaultArgs args{in, raw, edge, released, out, counter, right};
      const bool good = simt::run({fault.name, fault.blocks, fault.threads, fault.shared, fault.cluster}, fault.body,
                                  &args, sizeof args);
      const auto reports = simt::take_reports();
      if (good != reports.empty()) seen.insert("run() and the reports disagree");
      seen.insert(reports.empty() ? "nothing" : reports[0].kind + " @ " + place_in(reports[0].text));
      if (full)
        for (const auto& report : reports)
          fprintf(stderr, "%s: %s: %s\n", fault.name, report.kind.c_str(), report.text.c_str());
      void* const all[] = {in, raw, edge, out, counter};
      for (void* memory : all) simt::release(memory);
    }
  return seen;
}

}  // namespace

int main(int count, char**) {
  // Enough for every twin, and soon over for what does not end.
  simt::mode().seconds = 0.1;
  simt::mode().polls = 20'000;
  const FaultList* const lists[] = {&kBarrierFaults, &kMemoryFaults, &kCopyFaults, &kBulkFaults,
                                    &kClusterFaults, &kBlockFaults,  &kEndlessFaults};
  for (const FaultList* list : lists)
    for (size_t i = 0; i < list->count; ++i) {
      const Fault& fault = list->faults[i];
      for (const std::string& result : results(fault, false, count > 1)) printf("%s: %s\n", fault.name, result.c_str());
      for (const std::string& result : results(fault, true, count > 1))
        printf("%s (right): %s\n", fault.name, result.c_str());
    }
}
