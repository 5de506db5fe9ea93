// The loops that native kernels spend their time in, for whichever vectors the processor has.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mock {

constexpr size_t VECTOR_FLOATS = 16;  // columns are handled by so many
constexpr size_t TILE_ROWS = 8;       // and rows by so many

// product[rows, columns] = (add ? product : 0) + left[rows, inner] * right[inner, columns], row by row, with the given
// distances between rows. `rows` is a multiple of TILE_ROWS, `columns` of VECTOR_FLOATS.
void multiply(const float* left, size_t left_stride, const float* right, size_t right_stride, size_t rows, size_t inner,
              size_t columns, float* product, size_t product_stride, bool add);

// values[i] = exp(values[i] - maximum), 0 for minus infinity; returns their sum. `count` is a multiple of VECTOR_FLOATS.
float exponentials(float* values, size_t count, float maximum);

float largest(const float* values, size_t count);
void scale(float* values, size_t count, float factor);

// 16-bit floats to 32 bits.
void widen_f16(const uint16_t* source, size_t count, float* target);
void widen_bf16(const uint16_t* source, size_t count, float* target);

}  // namespace mock
