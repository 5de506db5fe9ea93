#include "launch.hpp"

#include <cstdio>
#include <cstdlib>

#include "native_prefill.hpp"

namespace mock {

Launch::Launch(const emulator::Kernel* kernel, dim3 grid, dim3 block, size_t shared_bytes, void* const* arguments)
    : kernel_(kernel), grid_(grid), block_(block), shared_bytes_(shared_bytes) {
  for (size_t i = 0; i < kernel->argument_count; i++) {
    const auto* value = static_cast<const unsigned char*>(arguments[i]);
    values_.emplace_back(value, value + kernel->argument_sizes[i]);
  }
}

unsigned Launch::head_dim() const {
  const char* suffix = std::strstr(kernel_->name, "_d");
  for (const char* next = suffix; next; next = std::strstr(next + 1, "_d")) suffix = next;
  return suffix ? static_cast<unsigned>(std::strtoul(suffix + 2, nullptr, 10)) : 0;
}

std::string Launch::stale_argument(const DeviceMemory& device) const {
  for (size_t i = 0; i < values_.size(); i++) {
    if (values_[i].size() != sizeof(DevicePointer) || !device.freed(argument<DevicePointer>(i))) continue;
    char text[96];
    std::snprintf(text, sizeof text, "argument %zu, %#llx, is memory that has been freed", i, argument<DevicePointer>(i));
    return text;
  }
  return {};
}

std::string Launch::run(const Settings& settings, int order) const {
  if (settings.native_prefill && is("prefill_attention_")) {
    native_prefill(*this);
    return {};
  }
  std::vector<void*> arguments;
  for (const auto& value : values_) arguments.push_back(const_cast<unsigned char*>(value.data()));
  return kernel_->launch(grid_, block_, shared_bytes_, arguments.data(), order) ? emulator::last_error() : std::string();
}

}  // namespace mock
