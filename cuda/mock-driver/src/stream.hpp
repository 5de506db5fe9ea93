// Streams: queues of operations that run only when somebody waits for them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "link_model.hpp"

namespace mock {

struct Stream;

// A place in a stream: recorded by one operation, awaited by others. An event refers to the mark of its latest record, and
// a wait to the mark that the event had when the wait was queued, as CUDA has it.
struct Mark {
  Stream* stream;  // that reaches it; alive until it does
  bool reached = false;
  double at_us = 0;
};

struct Operation {
  enum class Kind { copy, memset, kernel, host_function, free, record, wait };

  Kind kind;
  std::string name;                // of a kernel; else what the operation is
  std::shared_ptr<Mark> mark = {};  // of a record or wait
  Cost cost = {};

  // Host memory that it will read or write, so that nobody unregisters it first.
  const void* host = nullptr;
  size_t host_bytes = 0;

  // Both return what went wrong, or nothing. The first runs with the driver locked, once everything before the operation
  // has run: it may look at the tables and at device memory, and set the cost. The second runs unlocked.
  std::function<std::string(Cost&)> check = {};
  std::function<std::string()> run = {};

  uint64_t sequence = 0;  // of its queueing, over all streams
  double queued_us = 0, queued_host_us = 0;
};

struct Stream {
  unsigned number;  // in reports and traces; 0 is the default stream
  bool blocking;    // ordered with the default stream
  std::deque<Operation> queue = {};
  double end_us = 0;  // of its last operation that has run
  bool destroyed = false;

  bool blocked() const {
    return !queue.empty() && queue.front().kind == Operation::Kind::wait && !queue.front().mark->reached;
  }
};

}  // namespace mock
