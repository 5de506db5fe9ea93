#include "modules.hpp"

#include "report.hpp"

namespace mock {

Handle Modules::load() {
  const Handle handle = reinterpret_cast<Handle>(next_handle_++);
  modules_.insert(handle);
  return handle;
}

Result Modules::unload(Handle module) { return modules_.erase(module) ? SUCCESS : INVALID_HANDLE; }

Result Modules::function(Handle module, const char* name, Handle& function) {
  if (!modules_.count(module)) return INVALID_HANDLE;
  const emulator::Kernel* kernel = emulator::find(name);
  if (!kernel) {
    report("no kernel is called %s", name);
    return NOT_FOUND;
  }
  function = kernel;
  functions_.insert({function, {kernel, SHARED_BYTES}});
  return SUCCESS;
}

Function* Modules::find(Handle function) {
  const auto found = functions_.find(function);
  return found == functions_.end() ? nullptr : &found->second;
}

}  // namespace mock
