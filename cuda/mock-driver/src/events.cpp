#include "events.hpp"

#include "report.hpp"

namespace mock {

Handle Events::create(bool timed) {
  const Handle handle = reinterpret_cast<Handle>(next_handle_++);
  events_[handle] = {timed};
  return handle;
}

Result Events::destroy(Handle handle) {
  if (!find(handle)) return INVALID_HANDLE;
  events_.erase(handle);
  return SUCCESS;
}

Event* Events::find(Handle handle) {
  const auto found = events_.find(handle);
  if (found != events_.end()) return &found->second;
  report("use of event %p, which does not exist or has been destroyed", handle);
  return nullptr;
}

Result elapsed_ms(const Event& start, const Event& end, float& milliseconds) {
  if (!start.timed || !end.timed || !start.mark || !end.mark) return INVALID_HANDLE;
  if (!start.mark->reached || !end.mark->reached) return NOT_READY;
  milliseconds = static_cast<float>((end.mark->at_us - start.mark->at_us) * 1e-3);
  return SUCCESS;
}

}  // namespace mock
