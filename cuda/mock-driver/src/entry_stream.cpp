// Streams and events.
#include <memory>

#include "driver.hpp"
#include "report.hpp"

using namespace mock;

namespace {

// Runs `body(stream, driver, lock)` for a stream that exists.
template <class Body>
Result with_stream(Handle handle, Body&& body) {
  return with_context([&](Driver& driver, Lock& lock) {
    Stream* stream = driver.scheduler.find(handle);
    if (stream) return body(*stream, driver, lock);
    report("use of stream %p, which does not exist or has been destroyed", handle);
    return INVALID_HANDLE;
  });
}

template <class Body>
Result with_event(Handle handle, Body&& body) {
  return with_context([&](Driver& driver, Lock& lock) {
    Event* event = driver.events.find(handle);
    return event ? body(*event, driver, lock) : INVALID_HANDLE;
  });
}

}  // namespace

MOCK_API Result cuStreamCreate(Handle* stream, unsigned flags) {
  return with_context([&](Driver& driver, Lock&) {
    *stream = driver.scheduler.create(!(flags & STREAM_NON_BLOCKING));
    return SUCCESS;
  });
}

MOCK_API Result cuStreamCreateWithPriority(Handle* stream, unsigned flags, int) {
  return cuStreamCreate(stream, flags);
}

MOCK_API Result cuStreamDestroy_v2(Handle stream) {
  return with_context([&](Driver& driver, Lock&) { return driver.scheduler.destroy(stream); });
}

MOCK_API Result cuStreamSynchronize(Handle handle) {
  return with_stream(handle, [](Stream& stream, Driver& driver, Lock& lock) {
    return driver.scheduler.finish(lock, stream);
  });
}

MOCK_API Result cuStreamQuery(Handle handle) {
  return with_stream(handle, [](Stream& stream, Driver& driver, Lock& lock) {
    if (stream.queue.empty()) return SUCCESS;
    const bool reached = driver.scheduler.poll(lock, driver.scheduler.record(stream));
    return driver.scheduler.fault() ? driver.scheduler.fault() : reached ? SUCCESS : NOT_READY;
  });
}

MOCK_API Result cuStreamIsCapturing(Handle handle, int* status) {
  *status = 0;
  return with_stream(handle, [](Stream&, Driver&, Lock&) { return SUCCESS; });
}

MOCK_API Result cuStreamWaitEvent(Handle handle, Handle event_handle, unsigned) {
  return with_stream(handle, [&](Stream& stream, Driver& driver, Lock&) {
    Event* event = driver.events.find(event_handle);
    if (!event) return INVALID_HANDLE;
    if (!event->mark) return SUCCESS;
    const auto& forgotten = driver.settings.forgotten;
    const bool forget = forgotten && !event->mark->reached && stream.number == forgotten->waiting &&
                        event->mark->stream->number == forgotten->awaited;
    if (!forget) driver.scheduler.wait(stream, event->mark);
    return SUCCESS;
  });
}

MOCK_API Result cuLaunchHostFunc(Handle handle, void (*function)(void*), void* argument) {
  return with_stream(handle, [&](Stream& stream, Driver& driver, Lock&) {
    Operation operation{Operation::Kind::host_function, "host function"};
    operation.run = [=] {
      function(argument);
      return std::string();
    };
    driver.scheduler.submit(stream, std::move(operation));
    return SUCCESS;
  });
}

MOCK_API Result cuEventCreate(Handle* event, unsigned flags) {
  return with_context([&](Driver& driver, Lock&) {
    *event = driver.events.create(!(flags & EVENT_DISABLE_TIMING));
    return SUCCESS;
  });
}

MOCK_API Result cuEventDestroy_v2(Handle handle) {
  return with_context([&](Driver& driver, Lock&) { return driver.events.destroy(handle); });
}

MOCK_API Result cuEventRecord(Handle handle, Handle stream_handle) {
  return with_stream(stream_handle, [&](Stream& stream, Driver& driver, Lock&) {
    Event* event = driver.events.find(handle);
    if (!event) return INVALID_HANDLE;
    event->mark = driver.scheduler.record(stream);
    return SUCCESS;
  });
}

MOCK_API Result cuEventSynchronize(Handle handle) {
  return with_event(handle, [](Event& event, Driver& driver, Lock& lock) {
    // The event may be recorded anew or destroyed while this waits.
    const std::shared_ptr<Mark> mark = event.mark;
    return mark ? driver.scheduler.finish(lock, mark) : SUCCESS;
  });
}

MOCK_API Result cuEventQuery(Handle handle) {
  return with_event(handle, [](Event& event, Driver& driver, Lock& lock) {
    const std::shared_ptr<Mark> mark = event.mark;
    const bool reached = !mark || driver.scheduler.poll(lock, mark);
    return driver.scheduler.fault() ? driver.scheduler.fault() : reached ? SUCCESS : NOT_READY;
  });
}

MOCK_API Result cuEventElapsedTime_v2(float* milliseconds, Handle start, Handle end) {
  return with_event(start, [&](Event& first, Driver& driver, Lock&) {
    const Event* second = driver.events.find(end);
    return second ? elapsed_ms(first, *second, *milliseconds) : INVALID_HANDLE;
  });
}

MOCK_API Result cuEventElapsedTime(float* milliseconds, Handle start, Handle end) {
  return cuEventElapsedTime_v2(milliseconds, start, end);
}
