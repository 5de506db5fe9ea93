#include "driver.hpp"

#include <string>

#include "report.hpp"

namespace mock {
namespace {

Driver* driver = nullptr;
Result initialized = NOT_INITIALIZED;
std::once_flag once;
thread_local Handle context = nullptr;

}  // namespace

const Handle PRIMARY_CONTEXT = reinterpret_cast<Handle>(uintptr_t{0x1000});

Result Driver::initialize() {
  std::call_once(once, [] {
    std::string error;
    const Settings settings = Settings::from_environment(error);
    if (!error.empty()) {
      report("%s", error.c_str());
      initialized = INVALID_VALUE;
      return;
    }
    driver = new Driver(settings);
    initialized = SUCCESS;
  });
  return initialized;
}

Driver* Driver::get() { return driver; }

Handle current_context() { return context; }

void set_current_context(Handle handle) { context = handle; }

}  // namespace mock
