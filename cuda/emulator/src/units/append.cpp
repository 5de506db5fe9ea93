#include "../device.hpp"
#include "append.cu"
#include "units.hpp"

namespace emulator {

Table append() {
  static constexpr Kernel kernels[] = {
      EMULATED(append_f16),
      EMULATED(append_bf16),
  };
  return table(kernels);
}

}  // namespace emulator
