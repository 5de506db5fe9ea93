// What the driver has to say about its use, on standard error: a real driver would say nothing, or nothing this plain.
#pragma once

namespace mock {

__attribute__((format(printf, 1, 2))) void report(const char* format, ...);

}  // namespace mock
