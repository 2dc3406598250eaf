// dlclose() while the pool's threads wait in the library: it stays where it is. ./unload LIBRARY
#include <dlfcn.h>
#include <stdio.h>

#include "../../native/ops.h"

int main(int count, char** arguments) {
  void* library = count > 1 ? dlopen(arguments[1], RTLD_NOW) : NULL;
  if (library == NULL) return printf("unload: %s\n", dlerror()), 1;
  const grpo_api* (*get)(uint32_t) = (const grpo_api* (*)(uint32_t))dlsym(library, "grpo_kernels_api");
  const int works = get != NULL && get(GRPO_API_VERSION) != NULL;
  dlclose(library);
  const int stays = dlopen(arguments[1], RTLD_NOW | RTLD_NOLOAD) != NULL;
  printf("unload: %s\n", works && stays ? "the library stays" : "the library is gone");
  return !(works && stays);
}
