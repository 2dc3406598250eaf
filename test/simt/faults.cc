// Runs each planted fault of faults.cu over 3 seeds x 3 copy modes, then its correct twin, and prints a line for each
// distinct result: "name: kind @ file:line" or "name: nothing"; twins are called "name (right)". With an argument, the
// full reports too.
#include "faults.hpp"

#include <cstdio>
#include <cstring>
#include <set>
#include <string>

#include "simt.hpp"

namespace {

// The first place that the report names.
std::string place_in(const std::string& text) {
  const size_t at = text.find("faults.cu:");
  if (at == std::string::npos) return "nowhere";
  return text.substr(at, text.find_first_not_of("0123456789", at + strlen("faults.cu:")) - at);
}

std::set<std::string> results(const Fault& fault, bool right, bool full) {
  std::set<std::string> seen;
  for (const simt::Copies copies : {simt::Copies::kLate, simt::Copies::kEarly, simt::Copies::kRandom})
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      simt::mode().copies = copies;
      simt::mode().seed = seed;
      constexpr size_t kBytes = 1024 * sizeof(float);
      auto* in = static_cast<float*>(simt::allocate(kBytes));
      auto* raw = static_cast<float*>(simt::allocate(kBytes));
      auto* out = static_cast<float*>(simt::allocate(kBytes));
      auto* counter = static_cast<uint32_t*>(simt::allocate(16));
      for (int i = 0; i < 1024; ++i) in[i] = static_cast<float>(i);
      memset(counter, 0, 16);
      simt::host_wrote(in, kBytes);
      simt::host_wrote(counter, 16);
      const FaultArgs args{in, raw, out, counter, right};
      const bool good = simt::run({fault.name, fault.blocks, fault.threads, fault.shared, fault.cluster}, fault.body,
                                  &args, sizeof args);
      const auto reports = simt::take_reports();
      if (good != reports.empty()) seen.insert("run() and the reports disagree");
      seen.insert(reports.empty() ? "nothing" : reports[0].kind + " @ " + place_in(reports[0].text));
      if (full)
        for (const auto& report : reports)
          fprintf(stderr, "%s: %s: %s\n", fault.name, report.kind.c_str(), report.text.c_str());
      void* const all[] = {in, raw, out, counter};
      for (void* memory : all) simt::release(memory);
    }
  return seen;
}

}  // namespace

int main(int count, char**) {
  for (int i = 0; i < kFaultCount; ++i) {
    for (const std::string& result : results(kFaults[i], false, count > 1))
      printf("%s: %s\n", kFaults[i].name, result.c_str());
    for (const std::string& result : results(kFaults[i], true, count > 1))
      printf("%s (right): %s\n", kFaults[i].name, result.c_str());
  }
}
