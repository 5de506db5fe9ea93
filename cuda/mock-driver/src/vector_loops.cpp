#include "vector_loops.hpp"

#include <cstring>

namespace mock {
namespace {

using Floats = float __attribute__((vector_size(VECTOR_FLOATS * sizeof(float)), aligned(4)));
using Ints = int32_t __attribute__((vector_size(VECTOR_FLOATS * sizeof(float)), aligned(4)));

// By what the processor can do, not by its model: `arch=haswell` and the like leave out other makers' processors.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

}  // namespace

FOR_EACH_PROCESSOR
void multiply(const float* left, size_t left_stride, const float* right, size_t right_stride, size_t rows, size_t inner,
              size_t columns, float* product, size_t product_stride, bool add) {
  for (size_t row = 0; row < rows; row += TILE_ROWS) {
    for (size_t column = 0; column < columns; column += VECTOR_FLOATS) {
      const float* a = left + row * left_stride;
      float* c = product + row * product_stride + column;
      Floats sums[TILE_ROWS] = {};
      for (size_t i = 0; i < inner; i++) {
        const Floats b = *reinterpret_cast<const Floats*>(right + i * right_stride + column);
#pragma GCC unroll 8
        for (size_t r = 0; r < TILE_ROWS; r++) sums[r] += a[r * left_stride + i] * b;
      }
#pragma GCC unroll 8
      for (size_t r = 0; r < TILE_ROWS; r++) {
        Floats& target = *reinterpret_cast<Floats*>(c + r * product_stride);
        target = add ? target + sums[r] : sums[r];
      }
    }
  }
}

FOR_EACH_PROCESSOR
float exponentials(float* values, size_t count, float maximum) {
  Floats sum = {};
  for (size_t i = 0; i < count; i += VECTOR_FLOATS) {
    Floats& value = *reinterpret_cast<Floats*>(values + i);
    // 2^x as 2^whole * 2^rest, |rest| <= 1/2: the rest by its Taylor series, the whole in the exponent's bits.
    Floats x = (value - maximum) * 1.44269504f;
    const Ints vanishes = x < -125.0f;
    x = vanishes ? Floats{} - 125.0f : x;
    const Floats shifted = x + 12582912.0f;  // 1.5 * 2^23: rounds to a whole number, held in the low bits
    const Floats rest = x - (shifted - 12582912.0f);
    Floats power = Floats{} + 1.5403530e-4f;
    power = power * rest + 1.3333558e-3f;
    power = power * rest + 9.6181291e-3f;
    power = power * rest + 5.5504109e-2f;
    power = power * rest + 2.4022651e-1f;
    power = power * rest + 6.9314718e-1f;
    power = power * rest + 1.0f;
    Ints bits;
    std::memcpy(&bits, &power, sizeof bits);
    Ints whole;
    std::memcpy(&whole, &shifted, sizeof whole);
    bits += whole << 23;
    std::memcpy(&power, &bits, sizeof power);
    value = vanishes ? Floats{} : power;
    sum += value;
  }
  float total = 0;
  for (size_t i = 0; i < VECTOR_FLOATS; i++) total += sum[i];
  return total;
}

FOR_EACH_PROCESSOR
float largest(const float* values, size_t count) {
  Floats most = *reinterpret_cast<const Floats*>(values);
  for (size_t i = VECTOR_FLOATS; i < count; i += VECTOR_FLOATS) {
    const Floats next = *reinterpret_cast<const Floats*>(values + i);
    most = next > most ? next : most;
  }
  float result = most[0];
  for (size_t i = 1; i < VECTOR_FLOATS; i++) result = most[i] > result ? most[i] : result;
  return result;
}

FOR_EACH_PROCESSOR
void scale(float* values, size_t count, float factor) {
  for (size_t i = 0; i < count; i++) values[i] *= factor;
}

FOR_EACH_PROCESSOR
void widen_f16(const uint16_t* source, size_t count, float* target) {
  for (size_t i = 0; i < count; i++) {
    // Moved to where a float has exponent and fraction, then the difference of the exponents' biases by a product, which
    // is right for subnormal values, too. Infinities and NaNs have all bits of the exponent set afterwards.
    const uint32_t half = source[i], moved = (half & 0x7fffu) << 13;
    float value;
    std::memcpy(&value, &moved, sizeof value);
    value *= 0x1p112f;
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    bits |= (moved >= 0x0f800000u ? 0x7f800000u : 0u) | (half & 0x8000u) << 16;
    std::memcpy(target + i, &bits, sizeof bits);
  }
}

FOR_EACH_PROCESSOR
void widen_bf16(const uint16_t* source, size_t count, float* target) {
  for (size_t i = 0; i < count; i++) {
    const uint32_t bits = static_cast<uint32_t>(source[i]) << 16;
    std::memcpy(target + i, &bits, sizeof bits);
  }
}

}  // namespace mock
