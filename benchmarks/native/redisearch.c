// Loads RediSearch alone out of the library of FalkorDB, which holds it whole, as the module "search" of Redis:
//   redis-server --loadmodule redisearch.so FALKORDB.SO RedisModule_NAME ...
// The names are those of the API of modules that the library has pointers for (nm -D). Its index does not hear of
// later writes: create it when the vectors are there.
#include <dlfcn.h>
#include <stdio.h>

typedef int (*Get)(const char* name, void* pointer);

int RedisModule_OnLoad(void* context, void** arguments, int count) {
  Get get = (Get)((void**)context)[0];
  const char* (*text)(const void*, unsigned long*) = 0;
  void (*attributes)(void*, const char*, int, int) = 0;
  get("RedisModule_StringPtrLen", (void*)&text);
  get("RedisModule_SetModuleAttribs", (void*)&attributes);
  void* library = dlopen(text(arguments[0], 0), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  for (int n = 1; n < count; n++) get(text(arguments[n], 0), dlsym(library, text(arguments[n], 0)));
  attributes(context, "search", 1, 1);
  int (*start)(void*, void**, int) = (int (*)(void*, void**, int))dlsym(library, "RediSearch_InitModuleInternal");
  return start ? start(context, 0, 0) : 1;
}
