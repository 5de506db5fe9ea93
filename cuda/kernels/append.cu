// Rounds new keys and values to 16 bits and stores each row where it belongs: in the host's block, and in the pool if the
// block has a slot there.
#include "blocks.cuh"

namespace append {

// Eight elements, rounded. `overflows` grows by the finite values that became infinite.
template <typename T>
__device__ __forceinline__ uint4 round_piece(const float* source, unsigned& overflows) {
  unsigned pairs[PIECE / 2];
#pragma unroll
  for (unsigned i = 0; i < PIECE / 2; i++) {
    unsigned halves[2];
#pragma unroll
    for (unsigned j = 0; j < 2; j++) {
      const float value = source[2 * i + j];
      halves[j] = narrow<T>(value);
      if ((halves[j] & 0x7fffu) == INFINITY_BITS<T> && isfinite(value)) overflows++;
    }
    pairs[i] = halves[0] | halves[1] << 16;
  }
  return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

template <typename T>
__device__ __forceinline__ void append(const float* __restrict__ keys, const float* __restrict__ values, unsigned tokens,
                                       unsigned kv_heads, unsigned dim, unsigned block_tokens, unsigned first_row,
                                       unsigned blocks, const unsigned long long* __restrict__ host_blocks, T* __restrict__ pool,
                                       const unsigned* __restrict__ slots, unsigned long long* __restrict__ overflows) {
  const unsigned pieces = dim / PIECE;
  unsigned long long index = static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= static_cast<unsigned long long>(tokens) * kv_heads * 2 * pieces) return;
  // Neighbouring threads take neighbouring pieces of a row; a token's keys come before its values.
  const unsigned piece = static_cast<unsigned>(index % pieces);
  index /= pieces;
  const unsigned head = static_cast<unsigned>(index % kv_heads);
  index /= kv_heads;
  const bool is_value = index % 2 != 0;
  const unsigned token = static_cast<unsigned>(index / 2);

  const float* source = is_value ? values : keys;
  unsigned overflowed = 0;
  const uint4 rounded =
      round_piece<T>(source + (static_cast<unsigned long long>(token) * kv_heads + head) * dim + piece * PIECE, overflowed);

  const unsigned block = (first_row + token) / block_tokens, row = (first_row + token) % block_tokens;
  const unsigned offset = (is_value ? value_offset(block_tokens, dim) : 0) + piece;
  const unsigned long long entry = static_cast<unsigned long long>(head) * blocks + block;
  if (host_blocks != nullptr) {
    reinterpret_cast<uint4*>(host_blocks[entry])[key_row(0, row, block_tokens, dim) + offset] = rounded;
  }
  if (pool != nullptr && slots[entry] != NO_SLOT) {
    reinterpret_cast<uint4*>(pool)[key_row(slots[entry], row, block_tokens, dim) + offset] = rounded;
  }
  if (overflowed != 0) atomicAdd(overflows, static_cast<unsigned long long>(overflowed));
}

}  // namespace append

// A thread for each piece of each key and value row, in a grid of one dimension.
//
// keys, values [tokens, kv_heads, dim]; first_row: row of the first token in the first block touched; blocks: touched per
// head; host_blocks [kv_heads, blocks]: addresses, or null; pool: or null; slots [kv_heads, blocks]: `NO_SLOT` where the
// pool does not hold the block; overflows: grows by the finite inputs whose rounded value is infinite.
#define APPEND(T)                                                                                                          \
  extern "C" __global__ void __launch_bounds__(128)                                                                        \
      append_##T(const float* keys, const float* values, unsigned tokens, unsigned kv_heads, unsigned dim,                 \
                 unsigned block_tokens, unsigned first_row, unsigned blocks, const unsigned long long* host_blocks, T* pool, \
                 const unsigned* slots, unsigned long long* overflows) {                                                   \
    append::append<T>(keys, values, tokens, kv_heads, dim, block_tokens, first_row, blocks, host_blocks, pool, slots,      \
                      overflows);                                                                                          \
  }

APPEND(f16)
APPEND(bf16)
