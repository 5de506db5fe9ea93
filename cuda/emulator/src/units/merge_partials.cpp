#include "../device.hpp"
#include "merge_partials.cu"
#include "units.hpp"

namespace emulator {

Table merge_partials() {
  static constexpr Kernel kernels[] = {
      EMULATED(merge_partials),
  };
  return table(kernels);
}

}  // namespace emulator
