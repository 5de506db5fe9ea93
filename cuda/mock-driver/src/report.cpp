#include "report.hpp"

#include <cstdarg>
#include <cstdio>
#include <string>

namespace mock {

void report(const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  // One write, so that lines of different threads and processes do not mix.
  const std::string line = std::string("mock CUDA driver: ") + text + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace mock
