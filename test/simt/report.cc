// Reports: where they are kept, and the places that they name (addr2line, called for reports only).
#include <dlfcn.h>

#include <cstdarg>
#include <cstdio>
#include <map>
#include <mutex>
#include <utility>

#include "engine.hpp"

namespace simt {

namespace {

std::mutex reports_mutex;
std::vector<Report> reports;

}  // namespace

std::string text(const char* format, ...) {
  char buffer[1024];
  va_list list;
  va_start(list, format);
  vsnprintf(buffer, sizeof buffer, format, list);
  va_end(list);
  return buffer;
}

std::string who(const Thread* thread) {
  return SIMT_TEXT("thread %u of block %u", thread->index, thread->block->id);
}

void note_report(const char* kind, std::string message) {
  const std::lock_guard<std::mutex> lock(reports_mutex);
  reports.push_back({kind, std::move(message)});
}

bool same_place(const void* where, const void* other) {
  if (where == other) return true;
  const bool same = place(where) == place(other);
  hooked = current;  // no fault: the kernel goes on
  return same;
}

std::vector<Report> take_reports() {
  const std::lock_guard<std::mutex> lock(reports_mutex);
  return std::exchange(reports, {});
}

std::string place(const void* return_address) {
  hooked = nullptr;  // as SIMT_TEXT does
  static std::map<const void*, std::string> known;
  if (const auto found = known.find(return_address); found != known.end()) return found->second;
  Dl_info info{};
  std::string result = SIMT_TEXT("%p", return_address);
  if (return_address != nullptr && dladdr(return_address, &info) != 0 && info.dli_fname != nullptr) {
    const auto offset = static_cast<const char*>(return_address) - static_cast<const char*>(info.dli_fbase) - 1;
    // Executables that are not position independent have addresses, the others offsets.
    const std::string command = SIMT_TEXT("addr2line -i -e '%s' 0x%tx 2>/dev/null", info.dli_fname, offset);
    if (FILE* pipe = popen(command.c_str(), "r")) {
      char line[1024];
      std::string first;
      while (fgets(line, sizeof line, pipe) != nullptr) {
        std::string frame(line);
        frame = frame.substr(0, frame.find_first_of(" \n"));
        const size_t slash = frame.rfind('/');
        const bool library = frame.rfind("/usr/", 0) == 0;
        if (slash != std::string::npos) frame = frame.substr(slash + 1);
        if (frame.empty() || frame[0] == '?') continue;
        if (first.empty()) first = frame;
        // Wrappers that were inlined are not the kernel.
        if (library || frame.rfind("cuda.hpp:", 0) == 0 || frame.rfind("ptx.cuh:", 0) == 0) continue;
        first = frame;
        break;
      }
      pclose(pipe);
      if (!first.empty()) result = first;
    }
  }
  return known[return_address] = result;
}

}  // namespace simt
