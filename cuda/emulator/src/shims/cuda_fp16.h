// IEEE half precision for a host compiler: exact widening, rounding to nearest even.
#pragma once

#include "../device.hpp"

#if defined(__F16C__)
#include <immintrin.h>
#endif

struct __half_raw {
  unsigned short x;
};
struct __half2_raw {
  unsigned short x, y;
};
struct __half {
  unsigned short bits;
};
struct __half2 {
  unsigned short low, high;
  explicit __half2(__half2_raw raw) : low(raw.x), high(raw.y) {}
};

namespace emulator {

inline float widen_half(unsigned half) {
  // The exponent's bias differs by 112: a product does it for normal and subnormal numbers alike.
  const float magnitude = bits<float>((half & 0x7fffu) << 13) * 0x1p112f;
  const unsigned special = (half & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0;
  return bits<float>(bits<unsigned>(magnitude) | special | (half & 0x8000u) << 16);
}

inline unsigned short narrow_half(float value) {
  const unsigned sign = bits<unsigned>(value) >> 16 & 0x8000u;
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return 0x7fff;
  if (magnitude >= 65520.0f) return static_cast<unsigned short>(sign | 0x7c00u);
  if (magnitude < 0x1p-14f) {
    // Subnormal: adding one half moves the unit in the last place to 2^-24, so that the addition rounds.
    return static_cast<unsigned short>(sign | (bits<unsigned>(magnitude + 0.5f) - bits<unsigned>(0.5f)));
  }
  const unsigned exact = bits<unsigned>(magnitude) - (112u << 23);
  return static_cast<unsigned short>(sign | (exact + 0xfffu + (exact >> 13 & 1)) >> 13);
}

}  // namespace emulator

inline float2 __half22float2(__half2 pair) {
#if defined(__F16C__)
  const __m128 two = _mm_cvtph_ps(_mm_cvtsi32_si128(static_cast<int>(pair.low | static_cast<unsigned>(pair.high) << 16)));
  return {two[0], two[1]};
#else
  return {emulator::widen_half(pair.low), emulator::widen_half(pair.high)};
#endif
}
inline __half __float2half_rn(float value) { return {emulator::narrow_half(value)}; }
inline unsigned short __half_as_ushort(__half value) { return value.bits; }
