// All that the driver knows, behind one lock.
#pragma once

#include <mutex>
#include <utility>

#include "api.hpp"
#include "device_memory.hpp"
#include "events.hpp"
#include "modules.hpp"
#include "pinned_memory.hpp"
#include "scheduler.hpp"
#include "settings.hpp"

namespace mock {

struct Driver {
  explicit Driver(const Settings& read)
      : settings(read), device(read.device_bytes), scheduler(read) {}

  const Settings settings;
  std::mutex mutex;
  DeviceMemory device;
  PinnedMemory pinned;
  Events events;
  Modules modules;
  Scheduler scheduler;

  // Reads the environment, the first time. INVALID_VALUE, and a report, if there is nonsense in it.
  static Result initialize();
  // Null before cuInit. Never destroyed: threads may call until the process is gone.
  static Driver* get();
};

// The calling thread's current context.
Handle current_context();
void set_current_context(Handle context);

// The handle of the device's only context.
extern const Handle PRIMARY_CONTEXT;

// Runs `body(driver, lock)` for a call that needs a context, or fails as the real driver does: without one, or after an
// operation has gone wrong.
template <class Body>
Result with_context(Body&& body) {
  Driver* driver = Driver::get();
  if (!driver) return NOT_INITIALIZED;
  if (!current_context()) return INVALID_CONTEXT;
  Lock lock(driver->mutex);
  if (driver->scheduler.fault() != SUCCESS) return driver->scheduler.fault();
  return std::forward<Body>(body)(*driver, lock);
}

}  // namespace mock
