// Kernel launches: what was asked for, with the arguments as they were then.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "api.hpp"
#include "driver.hpp"
#include "registry.hpp"

namespace mock {

class Launch {
 public:
  // Copies the arguments, whose sizes the registry knows.
  Launch(const emulator::Kernel* kernel, dim3 grid, dim3 block, size_t shared_bytes, void* const* arguments);

  const emulator::Kernel& kernel() const { return *kernel_; }
  dim3 grid() const { return grid_; }

  template <class T>
  T argument(size_t index) const {
    T value;
    std::memcpy(&value, values_[index].data(), sizeof value);
    return value;
  }

  // Whether the kernel is `prefix` followed by an element type and perhaps a head dimension.
  bool is(const char* prefix) const { return std::strncmp(kernel_->name, prefix, std::strlen(prefix)) == 0; }
  // The number after "_d" at the end of the name; 0 if there is none.
  unsigned head_dim() const;
  bool bf16() const { return std::strstr(kernel_->name, "_bf16") != nullptr; }

  // An argument that points to memory that has been freed; empty if none does.
  std::string stale_argument(const DeviceMemory& device) const;

  // Runs the kernel in the emulator, or natively. What went wrong, or nothing.
  std::string run(const Settings& settings, int order) const;

 private:
  const emulator::Kernel* kernel_;
  dim3 grid_, block_;
  size_t shared_bytes_;
  std::vector<std::vector<unsigned char>> values_;
};

}  // namespace mock
