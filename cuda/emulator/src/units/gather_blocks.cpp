#include "../device.hpp"
#include "gather_blocks.cu"
#include "units.hpp"

namespace emulator {

Table gather_blocks() {
  static constexpr Kernel kernels[] = {
      EMULATED(gather_blocks),
  };
  return table(kernels);
}

}  // namespace emulator
