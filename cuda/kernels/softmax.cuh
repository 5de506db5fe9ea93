// Softmax in base 2: scores carry a factor log2(e), so that weights are powers of two, which the hardware computes.
// Only a log-sum-exp that leaves a kernel is natural.
#pragma once

constexpr unsigned WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

__device__ __forceinline__ float negative_infinity() { return __int_as_float(static_cast<int>(0xff800000u)); }

// The largest of the values that `width` neighbouring lanes hold, on each of them. The whole warp must call.
__device__ __forceinline__ float lanes_max(float value, unsigned width) {
#pragma unroll
  for (unsigned step = 1; step < width; step *= 2) value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, step));
  return value;
}

// Their sum, on each of them.
__device__ __forceinline__ float lanes_sum(float value, unsigned width) {
#pragma unroll
  for (unsigned step = 1; step < width; step *= 2) value += __shfl_xor_sync(ALL_LANES, value, step);
  return value;
}

// What sums over the keys so far count for once the largest score is `now`; nothing while no key has been seen.
__device__ __forceinline__ float rescale_factor(float before, float now) {
  return before == negative_infinity() ? 0.0f : exp2f(before - now);
}

// What a part of the keys counts for among parts whose largest natural log-sum-exp is `largest`; nothing if it has no key.
__device__ __forceinline__ float part_weight(float part, float largest) {
  return part == negative_infinity() ? 0.0f : exp2f((part - largest) * LOG2_E);
}

// Natural log-sum-exp of scores whose largest is `maximum` (base 2), and whose weights relative to it add up to `sum`.
__device__ __forceinline__ float natural_log_sum_exp(float maximum, float sum) {
  return sum > 0.0f ? (maximum + log2f(sum)) * LN_2 : negative_infinity();
}
