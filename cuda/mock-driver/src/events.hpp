// Events: names for the marks that streams reach.
#pragma once

#include <map>
#include <memory>

#include "api.hpp"
#include "stream.hpp"

namespace mock {

struct Event {
  bool timed;
  std::shared_ptr<Mark> mark = nullptr;  // of its latest record; null: never recorded
};

class Events {
 public:
  Handle create(bool timed);
  // A record or wait that is still queued stays valid, as with CUDA.
  Result destroy(Handle handle);
  // Null, and a report, for a handle that names no event or one that has been destroyed.
  Event* find(Handle handle);

 private:
  std::map<Handle, Event> events_;
  uintptr_t next_handle_ = 0x20000000;
};

// Milliseconds between two timed events; NOT_READY until both have been reached.
Result elapsed_ms(const Event& start, const Event& end, float& milliseconds);

}  // namespace mock
