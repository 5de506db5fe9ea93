// The part of CUDA C++ that the kernels use, for a host compiler. To be included before a kernel's source.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "block.hpp"

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

#define threadIdx (::emulator::machine.thread().index)
#define blockIdx (::emulator::machine.block_index())
#define blockDim (::emulator::machine.block_size())
#define gridDim (::emulator::machine.grid_size())

// All threads of a block run on one thread of the host, so a static is shared by them.
#define SHARED_ARRAY(type, name, count)      \
  alignas(16) static type name[count];     \
  static ::emulator::SharedRegion name##_region(name, sizeof(name))
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(::emulator::machine.dynamic_shared())

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }

namespace emulator {

template <typename To, typename From>
inline To bits(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &value, sizeof(To));
  return result;
}

inline float larger(float a, float b) { return a > b || b != b ? a : b; }

}  // namespace emulator

inline float __int_as_float(int value) { return emulator::bits<float>(value); }
inline float __uint_as_float(unsigned value) { return emulator::bits<float>(value); }
inline unsigned __float_as_uint(float value) { return emulator::bits<unsigned>(value); }

using std::isfinite;

// The C library's takes a call.
#define fmaxf(a, b) ::emulator::larger(a, b)

template <typename T>
inline T atomicAdd(T* target, T value) {
  const T before = *target;
  *target += value;
  return before;
}

#define __syncthreads() ::emulator::machine.barrier({__FILE__, __LINE__})
#define __syncwarp() ::emulator::machine.warp_barrier(~0u, {__FILE__, __LINE__})
#define __shfl_xor_sync(mask, value, step)                                                                     \
  ::emulator::bits<float>(::emulator::machine.exchange(mask, ::emulator::bits<uint32_t>(static_cast<float>(value)), \
                                                       ::emulator::machine.thread().linear % ::emulator::WARP_LANES ^ (step), \
                                                       {__FILE__, __LINE__}))
