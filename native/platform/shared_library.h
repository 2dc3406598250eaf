// Shared libraries, this one and others, in the words of each system. What is opened is never unloaded: threads of the
// pool and of drivers run its code.
#pragma once

#include <string>

namespace grpo {

// The address of a symbol of the library at `path`; null, with the loader's own words, where there is none.
void* open_symbol(const std::string& path, const char* symbol, std::string& problem);

// Keeps the library that has `symbol` loaded until the process ends.
void never_unload(const void* symbol);

}  // namespace grpo
