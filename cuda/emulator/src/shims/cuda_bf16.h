// bfloat16 for a host compiler, rounding to nearest even.
#pragma once

#include "../device.hpp"

struct __nv_bfloat16 {
  unsigned short bits;
};

inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  const unsigned exact = __float_as_uint(value);
  if (std::isnan(value)) return {0x7fff};
  return {static_cast<unsigned short>((exact + 0x7fffu + (exact >> 16 & 1)) >> 16)};
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.bits; }
