// Modules and functions. Whatever the image, a module holds the kernels that the emulator has.
#pragma once

#include <map>
#include <memory>
#include <set>

#include "api.hpp"
#include "registry.hpp"

namespace mock {

struct Function {
  const emulator::Kernel* kernel;
  size_t shared_limit;  // of dynamic shared memory, in bytes
};

class Modules {
 public:
  // What a block may have without asking, and what it may ask for, on compute capability 8.0.
  static constexpr size_t SHARED_BYTES = 48 << 10, SHARED_OPT_IN_BYTES = 163 << 10;

  Handle load();
  Result unload(Handle module);
  // NOT_FOUND, and a report, if the emulator has no such kernel. The same name gives the same function.
  Result function(Handle module, const char* name, Handle& function);
  // Null for a handle that names no function.
  Function* find(Handle function);

 private:
  std::set<Handle> modules_;
  std::map<Handle, Function> functions_;  // by their kernels' addresses
  uintptr_t next_handle_ = 0x30000000;
};

}  // namespace mock
