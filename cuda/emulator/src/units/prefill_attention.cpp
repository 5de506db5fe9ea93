#include "../device.hpp"
#include "prefill_attention.cu"
#include "units.hpp"

namespace emulator {

Table prefill_attention() {
  static constexpr Kernel kernels[] = {
      EMULATED(prefill_attention_f16_d64),
      EMULATED(prefill_attention_f16_d128),
      EMULATED(prefill_attention_f16_d256),
      EMULATED(prefill_attention_bf16_d64),
      EMULATED(prefill_attention_bf16_d128),
      EMULATED(prefill_attention_bf16_d256),
  };
  return table(kernels);
}

}  // namespace emulator
