#include "scheduler.hpp"

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "report.hpp"

namespace mock {
namespace {

const Handle LEGACY_DEFAULT = reinterpret_cast<Handle>(uintptr_t{1});
const Handle PER_THREAD_DEFAULT = reinterpret_cast<Handle>(uintptr_t{2});

}  // namespace

Scheduler::Scheduler(const Settings& settings)
    : order_(settings.order), random_(settings.seed), clock_(settings.link.has_value()), trace_(settings.trace) {
  if (settings.link) link_.emplace(*settings.link);
  default_ = &add(nullptr, true);
}

Stream& Scheduler::add(Handle handle, bool blocking) {
  auto& stream = streams_[handle];
  stream.reset(new Stream{next_number_++, blocking});
  return *stream;
}

Handle Scheduler::create(bool blocking) {
  const Handle handle = reinterpret_cast<Handle>(next_handle_++);
  add(handle, blocking);
  return handle;
}

Result Scheduler::destroy(Handle handle) {
  const auto found = streams_.find(handle);
  if (!handle || found == streams_.end() || found->second->destroyed) return INVALID_HANDLE;
  found->second->destroyed = true;
  if (found->second->queue.empty()) streams_.erase(found);
  return SUCCESS;
}

Stream* Scheduler::find(Handle handle) {
  if (!handle || handle == LEGACY_DEFAULT) return default_;
  if (handle == PER_THREAD_DEFAULT) {
    Handle& own = thread_streams_[std::this_thread::get_id()];
    if (!own) own = create(true);
    handle = own;
  }
  const auto found = streams_.find(handle);
  return found == streams_.end() || found->second->destroyed ? nullptr : found->second.get();
}

void Scheduler::enqueue(Stream& stream, Operation operation) {
  operation.sequence = sequence_++;
  operation.queued_us = clock_.now_us();
  operation.queued_host_us = Clock::host_us();
  stream.queue.push_back(std::move(operation));
}

std::shared_ptr<Mark> Scheduler::record(Stream& stream) {
  auto mark = std::make_shared<Mark>(Mark{&stream});
  submit(stream, {Operation::Kind::record, "record", mark});
  return mark;
}

void Scheduler::wait(Stream& stream, std::shared_ptr<Mark> mark) {
  submit(stream, {Operation::Kind::wait, "wait", std::move(mark)});
}

// The default stream waits for all blocking streams, and they for it.
void Scheduler::submit(Stream& stream, Operation operation) {
  const auto join = [this](Stream& from, Stream& into) {
    if (&from == &into || !from.blocking || from.queue.empty()) return;
    auto mark = std::make_shared<Mark>(Mark{&from});
    enqueue(from, {Operation::Kind::record, "record", mark});
    enqueue(into, {Operation::Kind::wait, "wait", mark});
  };
  if (&stream == default_)
    for (auto& other : streams_) join(*other.second, stream);
  else if (stream.blocking)
    join(*default_, stream);
  enqueue(stream, std::move(operation));
}

Result Scheduler::finish(Lock& lock, Stream& stream) {
  // A mark, not an empty queue: another thread may go on queueing.
  return finish(lock, record(stream));
}

Result Scheduler::finish(Lock& lock, const std::shared_ptr<Mark>& mark) {
  const Result result = drain(lock, [&] { return mark->reached; }, mark->stream);
  sleep_until(lock, mark->at_us);
  return result;
}

Result Scheduler::finish_all(Lock& lock) {
  std::vector<std::shared_ptr<Mark>> marks;
  std::vector<Stream*> streams;
  for (auto& entry : streams_)
    if (!entry.second->queue.empty()) streams.push_back(entry.second.get());
  for (Stream* stream : streams) marks.push_back(record(*stream));
  double end_us = 0;
  for (const auto& mark : marks) {
    drain(lock, [&] { return mark->reached; }, mark->stream);
    end_us = std::max(end_us, mark->at_us);
  }
  for (auto& entry : streams_) end_us = std::max(end_us, entry.second->end_us);
  sleep_until(lock, end_us);
  return fault_;
}

bool Scheduler::poll(Lock& lock, const std::shared_ptr<Mark>& mark) {
  bool tried = false;
  // A device with a clock has done by now what its clock says; one without has done one operation more than last time.
  drain(lock, [&] { return mark->reached || (!link_ && std::exchange(tried, true)); }, mark->stream);
  return mark->reached && (!link_ || mark->at_us <= clock_.now_us());
}

Result Scheduler::drain(Lock& lock, const std::function<bool()>& done, Stream* awaited) {
  while (!done()) {
    if (busy_) {
      changed_.wait(lock);
    } else if (Stream* stream = choose(awaited)) {
      run_next(lock, *stream);
    } else {
      break;
    }
  }
  return fault_;
}

Stream* Scheduler::choose(Stream* awaited) {
  std::vector<Stream*> ready;
  for (auto& entry : streams_) {
    Stream* stream = entry.second.get();
    if (!stream->queue.empty() && !stream->blocked()) ready.push_back(stream);
  }
  if (ready.empty()) return nullptr;
  if (order_ == Order::shuffled) return ready[random_() % ready.size()];
  if (order_ == Order::awaited_first) {
    while (awaited->blocked()) awaited = awaited->queue.front().mark->stream;
    return awaited;
  }
  if (order_ == Order::awaited_last && ready.size() > 1) {
    const auto last = std::find(ready.begin(), ready.end(), awaited);
    if (last != ready.end()) ready.erase(last);
  }
  return *std::min_element(ready.begin(), ready.end(), [](const Stream* a, const Stream* b) {
    return a->queue.front().sequence < b->queue.front().sequence;
  });
}

void Scheduler::run_next(Lock& lock, Stream& stream) {
  Operation& operation = stream.queue.front();  // stays where it is while others are queued behind it
  busy_ = true;
  const double began_us = clock_.now_us();
  clock_.emulation_begins();
  std::string why;
  // After a fault, only time goes on: whoever waits must learn of it.
  if (fault_ == SUCCESS && operation.check) why = operation.check(operation.cost);
  if (fault_ == SUCCESS && why.empty() && operation.run) {
    lock.unlock();
    why = operation.run();
    lock.lock();
  }
  if (!why.empty()) fail(stream, operation, why);

  Span span{began_us, clock_.now_us()};
  if (link_) {
    double ready_us = std::max(operation.queued_us, stream.end_us);
    if (operation.kind == Operation::Kind::wait) ready_us = std::max(ready_us, operation.mark->at_us);
    span = link_->place(operation.cost, ready_us);
  }
  stream.end_us = span.end_us;
  if (operation.kind == Operation::Kind::record) {
    operation.mark->reached = true;
    operation.mark->at_us = span.end_us;
  }
  trace_.write(stream, operation, span);
  stream.queue.pop_front();
  if (stream.destroyed && stream.queue.empty()) {
    const auto found = std::find_if(streams_.begin(), streams_.end(),
                                    [&](const auto& entry) { return entry.second.get() == &stream; });
    streams_.erase(found);
  }
  clock_.emulation_ends();
  if (link_ && idle()) link_->forget_before(clock_.now_us());
  busy_ = false;
  changed_.notify_all();
}

void Scheduler::sleep_until(Lock& lock, double time_us) {
  if (!link_) return;
  for (double left_us; (left_us = time_us - clock_.now_us()) > 0;) {
    lock.unlock();
    std::this_thread::sleep_for(std::chrono::duration<double, std::micro>(left_us));
    lock.lock();
  }
}

void Scheduler::fail(const Stream& stream, const Operation& operation, const std::string& why) {
  report("%s on stream %u: %s", operation.name.c_str(), stream.number, why.c_str());
  fault_ = operation.kind == Operation::Kind::kernel ? LAUNCH_FAILED : ILLEGAL_ADDRESS;
}

bool Scheduler::idle() const {
  return std::all_of(streams_.begin(), streams_.end(), [](const auto& entry) { return entry.second->queue.empty(); });
}

const Operation* Scheduler::touching(const void* host, size_t bytes) const {
  const char* start = static_cast<const char*>(host);
  for (const auto& entry : streams_)
    for (const Operation& operation : entry.second->queue) {
      const char* touched = static_cast<const char*>(operation.host);
      if (operation.host_bytes > 0 && touched < start + bytes && start < touched + operation.host_bytes)
        return &operation;
    }
  return nullptr;
}

}  // namespace mock
