// Everything else that cudarc can call. Each is weak: a function that another file implements takes its place.
#include <atomic>

#include "api.hpp"
#include "report.hpp"

using namespace mock;

namespace {

Result unsupported(const char* name, std::atomic<bool>& reported) {
  if (!reported.exchange(true)) report("%s is not implemented", name);
  return NOT_SUPPORTED;
}

}  // namespace

#define ENTRY(name)                                              \
  MOCK_API __attribute__((weak)) Result name() {                 \
    static std::atomic<bool> reported{false};                    \
    return unsupported(#name, reported);                         \
  }
#include "driver_names.inc"
