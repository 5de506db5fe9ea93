// One JSON line per operation, in the order in which operations ran (MOCK_TRACE).
#pragma once

#include <cstdio>
#include <string>

#include "link_model.hpp"
#include "stream.hpp"

namespace mock {

class Trace {
 public:
  // An empty path traces nothing. The file is made by the first operation.
  explicit Trace(std::string path) : path_(std::move(path)) {}

  void write(const Stream& stream, const Operation& operation, const Span& span);

 private:
  std::string path_;
  std::FILE* file_ = nullptr;
};

}  // namespace mock
