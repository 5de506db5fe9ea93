// The driver, its device and its context.
#include <cstdio>
#include <cstring>

#include "driver.hpp"

using namespace mock;

namespace {

// CUdevice_attribute, compute capability 8.0. What is not listed the device cannot do.
struct Attribute {
  int number, value;
};
constexpr Attribute ATTRIBUTES[] = {
    {1, 1024},           // threads per block
    {2, 1024},           // block, x
    {3, 1024},           // block, y
    {4, 64},             // block, z
    {5, 0x7fffffff},     // grid, x
    {6, 65535},          // grid, y
    {7, 65535},          // grid, z
    {8, static_cast<int>(Modules::SHARED_BYTES)},
    {9, 65536},          // constant memory
    {10, 32},            // warp
    {12, 65536},         // registers per block
    {13, 1410000},       // clock, HZ
    {15, 1},             // overlap of copies and kernels
    {16, 108},           // multiprocessors
    {19, 1},             // can map host memory
    {31, 1},             // concurrent kernels
    {33, 1},             // PCI bus
    {34, 0},             // PCI device
    {38, 40 << 20},      // level-2 cache
    {39, 2048},          // threads per multiprocessor
    {40, 2},             // copy engines
    {41, 1},             // unified addressing
    {50, 0},             // PCI domain
    {75, 8},             // compute capability, major
    {76, 0},             // compute capability, minor
    {78, 1},             // stream priorities
    {81, 164 << 10},     // shared memory per multiprocessor
    {82, 65536},         // registers per multiprocessor
    {91, 1},             // registered memory has the same address on the device
    {97, static_cast<int>(Modules::SHARED_OPT_IN_BYTES)},
    {99, 1},             // host memory can be registered
    {106, 32},           // blocks per multiprocessor
    {113, 1},            // also read-only
    {115, 1},            // memory pools: stream-ordered allocation
};

Result copy_text(char* target, int length, const char* text) {
  if (!target || length <= 0) return INVALID_VALUE;
  std::snprintf(target, static_cast<size_t>(length), "%s", text);
  return SUCCESS;
}

Result check_device(int device) {
  if (!Driver::get()) return NOT_INITIALIZED;
  return device == 0 ? SUCCESS : INVALID_DEVICE;
}

}  // namespace

MOCK_API Result cuInit(unsigned flags) { return flags ? INVALID_VALUE : Driver::initialize(); }

MOCK_API Result cuDriverGetVersion(int* version) {
  *version = 13000;
  return SUCCESS;
}

MOCK_API Result cuDeviceGetCount(int* count) {
  *count = 1;
  return check_device(0);
}

MOCK_API Result cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return check_device(ordinal);
}

MOCK_API Result cuDeviceGetName(char* name, int length, int device) {
  if (const Result result = check_device(device)) return result;
  return copy_text(name, length, "Hindsight mock device");
}

MOCK_API Result cuDeviceGetUuid_v2(char* uuid, int device) {
  std::memcpy(uuid, "hindsight mock 0", 16);
  return check_device(device);
}

MOCK_API Result cuDeviceGetPCIBusId(char* id, int length, int device) {
  if (const Result result = check_device(device)) return result;
  return copy_text(id, length, "0000:01:00.0");
}

MOCK_API Result cuDeviceTotalMem_v2(size_t* bytes, int device) {
  if (const Result result = check_device(device)) return result;
  *bytes = Driver::get()->device.total();
  return SUCCESS;
}

MOCK_API Result cuDeviceGetAttribute(int* value, int attribute, int device) {
  if (const Result result = check_device(device)) return result;
  *value = 0;
  for (const Attribute& known : ATTRIBUTES)
    if (known.number == attribute) *value = known.value;
  return SUCCESS;
}

MOCK_API Result cuDevicePrimaryCtxRetain(Handle* context, int device) {
  *context = PRIMARY_CONTEXT;
  return check_device(device);
}

MOCK_API Result cuDevicePrimaryCtxRelease_v2(int device) { return check_device(device); }

MOCK_API Result cuCtxSetCurrent(Handle context) {
  if (context && context != PRIMARY_CONTEXT) return INVALID_CONTEXT;
  set_current_context(context);
  return check_device(0);
}

MOCK_API Result cuCtxGetCurrent(Handle* context) {
  *context = current_context();
  return check_device(0);
}

MOCK_API Result cuCtxGetDevice(int* device) {
  *device = 0;
  return with_context([](Driver&, Lock&) { return SUCCESS; });
}

MOCK_API Result cuCtxSetFlags(unsigned) {
  return with_context([](Driver&, Lock&) { return SUCCESS; });
}

MOCK_API Result cuCtxSynchronize() {
  return with_context([](Driver& driver, Lock& lock) { return driver.scheduler.finish_all(lock); });
}

MOCK_API Result cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return with_context([](Driver&, Lock&) { return SUCCESS; });
}
