#include "platform/shared_library.h"

#if defined(_WIN32)
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace grpo {

#if defined(_WIN32)

void* open_symbol(const std::string& path, const char* symbol, std::string& problem) {
  const int length = MultiByteToWideChar(CP_UTF8, 0, path.c_str(), -1, nullptr, 0);
  std::wstring wide(static_cast<size_t>(length), L'\0');
  MultiByteToWideChar(CP_UTF8, 0, path.c_str(), -1, wide.data(), length);
  HMODULE library = LoadLibraryExW(wide.c_str(), nullptr, LOAD_WITH_ALTERED_SEARCH_PATH);
  if (library != nullptr)
    if (auto address = reinterpret_cast<void*>(GetProcAddress(library, symbol))) return address;
  problem = "error " + std::to_string(GetLastError()) + " of the system";
  return nullptr;
}

void never_unload(const void* symbol) {
  HMODULE library;
  GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN,
                     static_cast<LPCWSTR>(symbol), &library);
}

#else

void* open_symbol(const std::string& path, const char* symbol, std::string& problem) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library != nullptr)
    if (void* address = dlsym(library, symbol)) return address;
  const char* text = dlerror();
  problem = text != nullptr ? text : "no reason is given";
  return nullptr;
}

void never_unload(const void* symbol) {
  Dl_info own;
  if (dladdr(symbol, &own) != 0) dlopen(own.dli_fname, RTLD_NOW | RTLD_NODELETE);
}

#endif

}  // namespace grpo
