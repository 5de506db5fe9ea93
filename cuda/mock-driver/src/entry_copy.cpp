// Copies and fills.
#include <cstring>
#include <memory>
#include <vector>

#include "driver.hpp"
#include "report.hpp"

using namespace mock;

namespace {

void* at(DevicePointer pointer) { return reinterpret_cast<void*>(pointer); }

std::string done() { return {}; }

// Queues an operation whose device memory is checked now, and again when it runs: it may have been freed by then.
Result submit(Driver& driver, Handle handle, Operation operation, std::vector<std::pair<DevicePointer, size_t>> touched) {
  Stream* stream = driver.scheduler.find(handle);
  if (!stream) return INVALID_HANDLE;
  const auto check = [&driver, touched](Cost&) {
    for (const auto& range : touched) {
      std::string fault = driver.device.fault(range.first, range.second);
      if (!fault.empty()) return fault;
    }
    return std::string();
  };
  const std::string fault = check(operation.cost);
  if (!fault.empty()) {
    report("%s: %s", operation.name.c_str(), fault.c_str());
    return INVALID_VALUE;
  }
  operation.check = check;
  driver.scheduler.submit(*stream, std::move(operation));
  return SUCCESS;
}

enum class Host { pageable, pinned, invalid };

// CUDA refuses a copy that begins in pinned memory and leaves the range that was pinned as one.
Host kind_of(Driver& driver, const void* host, size_t bytes, bool written) {
  const PinnedMemory::Range* range = driver.pinned.find(host);
  if (!range) return Host::pageable;
  if (!driver.pinned.holds(host, bytes)) {
    report("copy of %zu bytes at %p leaves the pinned range that it begins in", bytes, host);
    return Host::invalid;
  }
  if (written && range->read_only) {
    report("copy to %p, which is registered as read-only", host);
    return Host::invalid;
  }
  return Host::pinned;
}

Operation over_link(const char* name, Direction direction, size_t bytes) {
  Operation operation{Operation::Kind::copy, name};
  operation.cost.direction = direction;
  operation.cost.link_bytes = static_cast<double>(bytes);
  return operation;
}

Result to_device(Driver& driver, DevicePointer target, const void* source, size_t bytes, Handle stream) {
  Operation operation = over_link("copy to the device", Direction::host_to_device, bytes);
  switch (kind_of(driver, source, bytes, false)) {
    case Host::invalid: return INVALID_VALUE;
    case Host::pinned:
      operation.host = source;
      operation.host_bytes = bytes;
      operation.run = [=] { return std::memcpy(at(target), source, bytes), done(); };
      break;
    case Host::pageable: {
      const auto* first = static_cast<const unsigned char*>(source);
      const auto staged = std::make_shared<std::vector<unsigned char>>(first, first + bytes);
      operation.run = [=] { return std::memcpy(at(target), staged->data(), bytes), done(); };
      break;
    }
  }
  return submit(driver, stream, std::move(operation), {{target, bytes}});
}

Result to_host(Driver& driver, Lock& lock, void* target, DevicePointer source, size_t bytes, Handle handle) {
  Operation operation = over_link("copy to the host", Direction::device_to_host, bytes);
  const Host kind = kind_of(driver, target, bytes, true);
  if (kind == Host::invalid) return INVALID_VALUE;
  operation.host = target;
  operation.host_bytes = bytes;
  operation.run = [=] { return std::memcpy(target, at(source), bytes), done(); };
  if (const Result result = submit(driver, handle, std::move(operation), {{source, bytes}})) return result;
  return kind == Host::pinned ? SUCCESS : driver.scheduler.finish(lock, *driver.scheduler.find(handle));
}

Result on_device(Driver& driver, DevicePointer target, DevicePointer source, size_t bytes, Handle stream) {
  Operation operation{Operation::Kind::copy, "copy on the device"};
  operation.cost.device_bytes = 2.0 * static_cast<double>(bytes);
  operation.run = [=] { return std::memmove(at(target), at(source), bytes), done(); };
  return submit(driver, stream, std::move(operation), {{target, bytes}, {source, bytes}});
}

Result fill(Driver& driver, DevicePointer target, unsigned char value, size_t bytes, Handle stream) {
  Operation operation{Operation::Kind::memset, "fill"};
  operation.cost.device_bytes = static_cast<double>(bytes);
  operation.run = [=] { return std::memset(at(target), value, bytes), done(); };
  return submit(driver, stream, std::move(operation), {{target, bytes}});
}

// A call without a stream: in the default stream, and waited for.
template <class Body>
Result synchronously(Body&& body) {
  return with_context([&](Driver& driver, Lock& lock) {
    if (const Result result = body(driver, lock)) return result;
    return driver.scheduler.finish(lock, *driver.scheduler.find(nullptr));
  });
}

}  // namespace

MOCK_API Result cuMemcpyHtoDAsync_v2(DevicePointer target, const void* source, size_t bytes, Handle stream) {
  return with_context([&](Driver& driver, Lock&) { return to_device(driver, target, source, bytes, stream); });
}

MOCK_API Result cuMemcpyDtoHAsync_v2(void* target, DevicePointer source, size_t bytes, Handle stream) {
  return with_context([&](Driver& driver, Lock& lock) { return to_host(driver, lock, target, source, bytes, stream); });
}

MOCK_API Result cuMemcpyDtoDAsync_v2(DevicePointer target, DevicePointer source, size_t bytes, Handle stream) {
  return with_context([&](Driver& driver, Lock&) { return on_device(driver, target, source, bytes, stream); });
}

MOCK_API Result cuMemsetD8Async(DevicePointer target, unsigned char value, size_t bytes, Handle stream) {
  return with_context([&](Driver& driver, Lock&) { return fill(driver, target, value, bytes, stream); });
}

MOCK_API Result cuMemcpyHtoD_v2(DevicePointer target, const void* source, size_t bytes) {
  return synchronously([&](Driver& driver, Lock&) { return to_device(driver, target, source, bytes, nullptr); });
}

MOCK_API Result cuMemcpyDtoH_v2(void* target, DevicePointer source, size_t bytes) {
  return synchronously([&](Driver& driver, Lock& lock) {
    return to_host(driver, lock, target, source, bytes, nullptr);
  });
}

MOCK_API Result cuMemcpyDtoD_v2(DevicePointer target, DevicePointer source, size_t bytes) {
  return synchronously([&](Driver& driver, Lock&) { return on_device(driver, target, source, bytes, nullptr); });
}

MOCK_API Result cuMemsetD8_v2(DevicePointer target, unsigned char value, size_t bytes) {
  return synchronously([&](Driver& driver, Lock&) { return fill(driver, target, value, bytes, nullptr); });
}
