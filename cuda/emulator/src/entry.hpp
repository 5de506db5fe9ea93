// From a kernel's type to its entry in the registry.
#pragma once

#include <type_traits>
#include <utility>

#include "registry.hpp"

namespace emulator {

template <auto kernel>
struct Entry;

template <typename... Arguments, void (*kernel)(Arguments...)>
struct Entry<kernel> {
  static constexpr size_t SIZES[] = {sizeof(Arguments)...};

  template <size_t... index>
  static void call(void** arguments, std::index_sequence<index...>) {
    kernel(*static_cast<std::remove_const_t<Arguments>*>(arguments[index])...);
  }

  static void body(void** arguments) { call(arguments, std::index_sequence_for<Arguments...>{}); }

  static int launch(dim3 grid, dim3 block, size_t shared_bytes, void** arguments, int order) {
    return machine.run(grid, block, shared_bytes, body, arguments, order) ? 0 : 1;
  }

  static constexpr Kernel named(const char* name) { return {name, sizeof...(Arguments), SIZES, launch}; }
};

// The kernels of one source file.
struct Table {
  const Kernel* kernels;
  size_t count;
};

template <size_t count>
constexpr Table table(const Kernel (&kernels)[count]) {
  return {kernels, count};
}

}  // namespace emulator

#define EMULATED(kernel) ::emulator::Entry<(::kernel)>::named(#kernel)
