#include "trace.hpp"

#include <cerrno>
#include <cstring>

#include "report.hpp"

namespace mock {
namespace {

const char* kind(const Operation& operation) {
  switch (operation.kind) {
    case Operation::Kind::copy: return "copy";
    case Operation::Kind::memset: return "memset";
    case Operation::Kind::kernel: return "kernel";
    case Operation::Kind::host_function: return "host";
    case Operation::Kind::free:
    case Operation::Kind::record:
    case Operation::Kind::wait: return nullptr;
  }
  return nullptr;
}

const char* direction(const Cost& cost) {
  switch (cost.direction) {
    case Direction::host_to_device: return "h2d";
    case Direction::device_to_host: return "d2h";
    case Direction::none: return "device";
  }
  return "device";
}

}  // namespace

void Trace::write(const Stream& stream, const Operation& operation, const Span& span) {
  const char* what = kind(operation);
  if (path_.empty() || !what) return;
  if (!file_) {
    file_ = std::fopen(path_.c_str(), "w");
    if (!file_) {
      report("cannot write the trace %s: %s", path_.c_str(), std::strerror(errno));
      path_.clear();
      return;
    }
    // Whole lines, as soon as they are known: a process may end in any way.
    std::setvbuf(file_, nullptr, _IOLBF, 1024);
  }
  const Cost& cost = operation.cost;
  const double bytes = cost.direction == Direction::none ? cost.device_bytes : cost.link_bytes;
  // Names are those of kernels and of this library's operations: nothing in them needs escaping.
  std::fprintf(file_,
               "{\"stream\":%u,\"kind\":\"%s\",\"name\":\"%s\",\"bytes\":%.0f,\"direction\":\"%s\",\"start_us\":%.3f,"
               "\"end_us\":%.3f,\"queued_us\":%.3f,\"queued_host_us\":%.3f}\n",
               stream.number, what, operation.name.c_str(), bytes, direction(cost), span.start_us, span.end_us,
               operation.queued_us, operation.queued_host_us);
}

}  // namespace mock
