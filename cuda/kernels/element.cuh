// Cached keys and values are 16-bit floats, read and written eight at a time (16 bytes, the widest access there is).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

using f16 = __half;
using bf16 = __nv_bfloat16;

// A piece: eight consecutive elements of a row.
constexpr unsigned PIECE = 8;

template <typename T>
__device__ __forceinline__ float2 widen(unsigned pair);

template <>
__device__ __forceinline__ float2 widen<f16>(unsigned pair) {
  __half2_raw raw;
  raw.x = static_cast<unsigned short>(pair & 0xffffu);
  raw.y = static_cast<unsigned short>(pair >> 16);
  return __half22float2(__half2(raw));
}

template <>
__device__ __forceinline__ float2 widen<bf16>(unsigned pair) {
  return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}

template <typename T>
__device__ __forceinline__ void widen(const uint4& piece, float (&out)[PIECE]) {
  const unsigned pairs[4] = {piece.x, piece.y, piece.z, piece.w};
#pragma unroll
  for (unsigned i = 0; i < 4; i++) {
    const float2 two = widen<T>(pairs[i]);
    out[2 * i] = two.x;
    out[2 * i + 1] = two.y;
  }
}

// Round to nearest, ties to even.
template <typename T>
__device__ __forceinline__ unsigned narrow(float value);

template <>
__device__ __forceinline__ unsigned narrow<f16>(float value) {
  return __half_as_ushort(__float2half_rn(value));
}

template <>
__device__ __forceinline__ unsigned narrow<bf16>(float value) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

// The bits of infinity, sign cleared.
template <typename T>
constexpr unsigned INFINITY_BITS = 0;
template <>
constexpr unsigned INFINITY_BITS<f16> = 0x7c00;
template <>
constexpr unsigned INFINITY_BITS<bf16> = 0x7f80;
