#include "registry.hpp"

#include <cstring>

#include "units/units.hpp"

namespace emulator {

const Kernel* find(const char* name) {
  for (const Table& table : tables()) {
    for (size_t i = 0; i < table.count; i++) {
      if (std::strcmp(table.kernels[i].name, name) == 0) return &table.kernels[i];
    }
  }
  return nullptr;
}

const char* last_error() { return machine.error().c_str(); }

}  // namespace emulator
