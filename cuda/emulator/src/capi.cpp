// The registry for callers that are not C++.
#include "registry.hpp"

extern "C" {

const emulator::Kernel* hindsight_emulator_find(const char* name) { return emulator::find(name); }

int hindsight_emulator_launch(const emulator::Kernel* kernel, const unsigned* grid, const unsigned* block,
                              size_t shared_bytes, void** arguments, int order) {
  return kernel->launch({grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, shared_bytes, arguments, order);
}

const char* hindsight_emulator_last_error() { return emulator::last_error(); }

}
