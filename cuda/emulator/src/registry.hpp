// The emulated kernels by name. Callers take turns: one launch at a time in a process.
#pragma once

#include <cstddef>

#include "block.hpp"

namespace emulator {

struct Kernel {
  const char* name;
  size_t argument_count;
  const size_t* argument_sizes;  // in bytes, as the kernel's type has them
  // `arguments` points to each argument's value, as for cuLaunchKernel. `order` in which threads run: 0 forward, 1 reverse,
  // else a seed (block.hpp). 0, or 1 if threads waited for each other in vain: `last_error()` says where.
  int (*launch)(dim3 grid, dim3 block, size_t shared_bytes, void** arguments, int order);
};

// Null: no such kernel.
const Kernel* find(const char* name);

// What the last failed launch came to; valid until the next launch.
const char* last_error();

}  // namespace emulator
