// Where rows lie. A block holds `block_tokens` keys, then as many values, of one layer and KV head; a pool is an array of
// blocks, and a slot an index into it. All offsets are in pieces and have 64 bits: a pool may exceed 4 Gi elements.
#pragma once

#include "element.cuh"

// The slot of tokens that no pool holds.
constexpr unsigned NO_SLOT = 0xffffffffu;

// The first piece of key row `row` of the block in `slot`. The value row lies `value_offset` pieces further on.
__device__ __forceinline__ unsigned long long key_row(unsigned slot, unsigned row, unsigned block_tokens, unsigned dim) {
  return (static_cast<unsigned long long>(slot) * 2 * block_tokens + row) * (dim / PIECE);
}

__device__ __forceinline__ unsigned value_offset(unsigned block_tokens, unsigned dim) {
  return block_tokens * (dim / PIECE);
}
