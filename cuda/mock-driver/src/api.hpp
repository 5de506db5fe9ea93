// The part of the CUDA driver's binary interface that the mock speaks: result codes, handles and flags, with the values
// that cuda.h gives them.
#pragma once

#include <cstddef>
#include <cstdint>

#define MOCK_API extern "C" __attribute__((visibility("default")))

namespace mock {

enum Result : int {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  INVALID_DEVICE = 101,
  INVALID_CONTEXT = 201,
  INVALID_HANDLE = 400,
  NOT_FOUND = 500,
  NOT_READY = 600,
  ILLEGAL_ADDRESS = 700,
  HOST_MEMORY_ALREADY_REGISTERED = 712,
  HOST_MEMORY_NOT_REGISTERED = 713,
  LAUNCH_FAILED = 719,
  NOT_SUPPORTED = 801,
};

using DevicePointer = unsigned long long;

// Streams, events, modules and functions are numbers dressed as pointers: nobody dereferences them, so that a stale one is
// recognised instead of followed.
using Handle = const void*;

enum StreamFlag : unsigned { STREAM_NON_BLOCKING = 1 };
enum EventFlag : unsigned { EVENT_DISABLE_TIMING = 2 };
enum RegisterFlag : unsigned { REGISTER_READ_ONLY = 8 };

}  // namespace mock
