#include "../device.hpp"
#include "decode_attention.cu"
#include "units.hpp"

namespace emulator {

Table decode_attention() {
  static constexpr Kernel kernels[] = {
      EMULATED(decode_attention_f16_d64),
      EMULATED(decode_attention_f16_d128),
      EMULATED(decode_attention_f16_d256),
      EMULATED(decode_attention_bf16_d64),
      EMULATED(decode_attention_bf16_d128),
      EMULATED(decode_attention_bf16_d256),
  };
  return table(kernels);
}

}  // namespace emulator
