// Allocation of device memory and pinning of host memory.
#include "driver.hpp"
#include "report.hpp"

using namespace mock;

namespace {

// A device out of memory still has what queued operations are about to free: CUDA, too, waits for them.
Result allocate(Driver& driver, Lock& lock, DevicePointer* pointer, size_t bytes) {
  if (driver.device.allocate(bytes, *pointer) == SUCCESS) return SUCCESS;
  if (const Result result = driver.scheduler.finish_all(lock)) return result;
  return driver.device.allocate(bytes, *pointer);
}

// Reports host memory that is let go of while a copy is queued that would touch it, and runs the copy.
Result settle(Driver& driver, Lock& lock, const void* pointer, const char* what) {
  const PinnedMemory::Range* range = driver.pinned.starting_at(pointer);
  const Operation* operation = range ? driver.scheduler.touching(pointer, range->bytes) : nullptr;
  if (!operation) return SUCCESS;
  report("%s of host memory at %p with a copy in flight: %s", what, pointer, operation->name.c_str());
  return driver.scheduler.finish_all(lock);
}

}  // namespace

MOCK_API Result cuMemGetInfo_v2(size_t* available, size_t* total) {
  return with_context([&](Driver& driver, Lock&) {
    *available = driver.device.available();
    *total = driver.device.total();
    return SUCCESS;
  });
}

MOCK_API Result cuMemAlloc_v2(DevicePointer* pointer, size_t bytes) {
  return with_context([&](Driver& driver, Lock& lock) {
    return bytes ? allocate(driver, lock, pointer, bytes) : INVALID_VALUE;
  });
}

MOCK_API Result cuMemFree_v2(DevicePointer pointer) {
  return with_context([&](Driver& driver, Lock& lock) {
    if (!pointer) return SUCCESS;
    if (const Result result = driver.scheduler.finish_all(lock)) return result;
    return driver.device.release(pointer);
  });
}

MOCK_API Result cuMemAllocAsync(DevicePointer* pointer, size_t bytes, Handle stream) {
  return with_context([&](Driver& driver, Lock& lock) {
    return driver.scheduler.find(stream) ? allocate(driver, lock, pointer, bytes) : INVALID_HANDLE;
  });
}

MOCK_API Result cuMemFreeAsync(DevicePointer pointer, Handle handle) {
  return with_context([&](Driver& driver, Lock&) {
    Stream* stream = driver.scheduler.find(handle);
    if (!stream) return INVALID_HANDLE;
    if (!pointer) return SUCCESS;
    Operation operation{Operation::Kind::free, "free"};
    operation.check = [&driver, pointer](Cost&) {
      return driver.device.release(pointer) ? std::string("nothing to free") : std::string();
    };
    driver.scheduler.submit(*stream, std::move(operation));
    return SUCCESS;
  });
}

MOCK_API Result cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
  return with_context([&](Driver& driver, Lock&) { return driver.pinned.allocate(bytes, *pointer); });
}

MOCK_API Result cuMemFreeHost(void* pointer) {
  return with_context([&](Driver& driver, Lock& lock) {
    if (const Result result = settle(driver, lock, pointer, "free")) return result;
    return driver.pinned.release(pointer);
  });
}

MOCK_API Result cuMemHostRegister_v2(void* pointer, size_t bytes, unsigned flags) {
  return with_context([&](Driver& driver, Lock&) {
    const Settings& settings = driver.settings;
    // What a limit on locked memory looks like from here.
    if (settings.refuse_register || (settings.register_limit && bytes > *settings.register_limit)) return OUT_OF_MEMORY;
    return driver.pinned.add(pointer, bytes, flags & REGISTER_READ_ONLY);
  });
}

MOCK_API Result cuMemHostUnregister(void* pointer) {
  return with_context([&](Driver& driver, Lock& lock) {
    if (const Result result = settle(driver, lock, pointer, "unregistering")) return result;
    return driver.pinned.remove(pointer);
  });
}

MOCK_API Result cuMemHostGetDevicePointer_v2(DevicePointer* device, void* host, unsigned flags) {
  return with_context([&](Driver& driver, Lock&) {
    if (flags || !driver.pinned.find(host)) return INVALID_VALUE;
    *device = reinterpret_cast<DevicePointer>(host);
    return SUCCESS;
  });
}
