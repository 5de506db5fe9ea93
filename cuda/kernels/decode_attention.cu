// Attention of one token's queries to listed blocks of keys and values: paged, split over the list, online softmax.
//
// One thread block serves one KV head and one split, for all query heads of the group, so that each row leaves global
// memory once. Rows pass through shared memory a tile at a time. While the scores of a tile are computed its values are
// under way into registers, and while these are summed, the next tile's keys.
#include "blocks.cuh"
#include "shared_memory.cuh"
#include "softmax.cuh"

namespace decode {

constexpr unsigned THREADS = 128;
// Thread blocks that a multiprocessor must hold: enough loads under way, and registers enough that none spills.
constexpr unsigned RESIDENT = 3;
constexpr unsigned MAX_GROUP = 16;
// Heads that one thread works on at a time.
constexpr unsigned CHUNK = 4;
constexpr unsigned WARPS = THREADS / WARP;

// Floats from key to key in the scores of a tile: a multiple of 16 bytes, odd in those to spread over the banks.
__device__ __forceinline__ unsigned score_stride(unsigned chunks) { return CHUNK * (chunks | 1); }

template <unsigned D>
struct Shape {
  static constexpr unsigned PIECES = D / PIECE;           // of a row
  static constexpr unsigned ROWS = THREADS / PIECES;      // that the block loads at a time, a piece per thread
  static constexpr unsigned LOADS = 8;                    // that each thread has under way
  static constexpr unsigned TILE = LOADS * ROWS;          // keys
  static constexpr unsigned SHARE = THREADS / TILE;       // threads that share the dot products of a key
  static constexpr unsigned STRIDE = PIECES + SHARE;      // pieces from row to row: padded against bank conflicts
};

// This thread's pieces of a tile, from rows that begin at `rows`; zeros beyond the `valid` rows.
template <unsigned D>
__device__ __forceinline__ void load(const uint4* pool, const unsigned long long* rows, unsigned offset, unsigned valid,
                                     uint4 (&pieces)[Shape<D>::LOADS]) {
  using S = Shape<D>;
#pragma unroll
  for (unsigned i = 0; i < S::LOADS; i++) {
    const unsigned row = threadIdx.x / S::PIECES + i * S::ROWS;
    pieces[i] = row < valid ? pool[rows[row] + offset + threadIdx.x % S::PIECES] : make_uint4(0, 0, 0, 0);
  }
}

template <unsigned D>
__device__ __forceinline__ void store(const uint4 (&pieces)[Shape<D>::LOADS], uint4* tile) {
  using S = Shape<D>;
#pragma unroll
  for (unsigned i = 0; i < S::LOADS; i++) {
    const unsigned row = threadIdx.x / S::PIECES + i * S::ROWS;
    tile[row * S::STRIDE + threadIdx.x % S::PIECES] = pieces[i];
  }
}

// Eight floats of shared memory times a piece of a key.
__device__ __forceinline__ float dot(const float* query, const float (&key)[PIECE]) {
  const float4 low = reinterpret_cast<const float4*>(query)[0], high = reinterpret_cast<const float4*>(query)[1];
  const float part[PIECE] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  float sum = 0.0f;
#pragma unroll
  for (unsigned e = 0; e < PIECE; e++) sum += part[e] * key[e];
  return sum;
}

// score[key][head] = query[head] . tile[key], -inf beyond the `valid` keys.
template <typename T, unsigned D>
__device__ __forceinline__ void scores(const uint4* tile, const float* query, unsigned chunks, unsigned valid, float* score) {
  using S = Shape<D>;
  const unsigned key = threadIdx.x / S::SHARE, share = threadIdx.x % S::SHARE;
#pragma unroll 1
  for (unsigned chunk = 0; chunk < chunks; chunk++) {
    float sums[CHUNK] = {};
#pragma unroll
    for (unsigned piece = share; piece < S::PIECES; piece += S::SHARE) {
      float keys[PIECE];
      widen<T>(tile[key * S::STRIDE + piece], keys);
#pragma unroll
      for (unsigned h = 0; h < CHUNK; h++) {
        sums[h] += dot(query + (chunk * CHUNK + h) * D + piece * PIECE, keys);
      }
    }
#pragma unroll
    for (unsigned h = 0; h < CHUNK; h++) {
      sums[h] = lanes_sum(sums[h], S::SHARE);
      if (key >= valid) sums[h] = negative_infinity();
    }
    if (share == 0) {
      *reinterpret_cast<float4*>(score + key * score_stride(chunks) + chunk * CHUNK) = make_float4(sums[0], sums[1], sums[2], sums[3]);
    }
  }
}

// What is known of each head.
struct State {
  float maximum[MAX_GROUP];  // the largest score so far
  float sum[MAX_GROUP];      // of weights relative to it
  float rescale[MAX_GROUP];  // what earlier sums must be multiplied by
};

// Turns the tile's scores into weights. A warp takes every fourth head.
template <unsigned D>
__device__ __forceinline__ void weigh(State& state, unsigned group, unsigned chunks, float* score) {
  constexpr unsigned TILE = Shape<D>::TILE;
  const unsigned lane = threadIdx.x % WARP, stride = score_stride(chunks);
  for (unsigned head = threadIdx.x / WARP; head < group; head += WARPS) {
    const float before = state.maximum[head];
    float largest = before;
#pragma unroll
    for (unsigned key = lane; key < TILE; key += WARP) largest = fmaxf(largest, score[key * stride + head]);
    largest = lanes_max(largest, WARP);
    float sum = 0.0f;
#pragma unroll
    for (unsigned key = lane; key < TILE; key += WARP) {
      const float weight = exp2f(score[key * stride + head] - largest);
      score[key * stride + head] = weight;
      sum += weight;
    }
    sum = lanes_sum(sum, WARP);
    if (lane == 0) {
      const float factor = rescale_factor(before, largest);
      state.maximum[head] = largest;
      state.sum[head] = state.sum[head] * factor + sum;
      state.rescale[head] = factor;
    }
  }
}

// out[head] += weight[key][head] * tile[key], for four heads, eight columns and every `parts`-th key.
template <typename T, unsigned D>
__device__ __forceinline__ void accumulate(const uint4* tile, const float* weight, unsigned stride, unsigned column, unsigned part,
                                           unsigned parts, unsigned valid, float (&out)[CHUNK][PIECE]) {
#pragma unroll 2
  for (unsigned key = part; key < valid; key += parts) {
    const float4 four = *reinterpret_cast<const float4*>(weight + key * stride);
    const float weights[CHUNK] = {four.x, four.y, four.z, four.w};
    float values[PIECE];
    widen<T>(tile[key * Shape<D>::STRIDE + column], values);
#pragma unroll
    for (unsigned h = 0; h < CHUNK; h++) {
#pragma unroll
      for (unsigned e = 0; e < PIECE; e++) out[h][e] += weights[h] * values[e];
    }
  }
}

template <typename T, unsigned D>
__device__ __forceinline__ void attend(const float* __restrict__ queries, const T* __restrict__ pool_elements,
                                       const unsigned* __restrict__ slots, const unsigned* __restrict__ blocks,
                                       const unsigned* __restrict__ last_tokens, unsigned stride, unsigned group,
                                       unsigned block_tokens, unsigned splits, unsigned first_split, float scale,
                                       float* __restrict__ partial_out, float* __restrict__ partial_lse) {
  using S = Shape<D>;
  SHARED_ARRAY(uint4, tile, S::TILE * S::STRIDE);
  SHARED_ARRAY(unsigned long long, rows, 2 * S::TILE);  // of this tile and of the next
  SHARED_ARRAY(State, states, 1);
  DYNAMIC_SHARED(float, dynamic);

  const uint4* pool = reinterpret_cast<const uint4*>(pool_elements);
  const unsigned thread = threadIdx.x, kv_head = blockIdx.x, split = blockIdx.y;
  const unsigned chunks = (group + CHUNK - 1) / CHUNK, padded = chunks * CHUNK;
  float* query = dynamic;              // [padded][D], scaled
  float* score = dynamic + padded * D;  // [TILE][score_stride]; what lies beyond the group is never written out
  State& state = *states;

  // This split's part of the list.
  const unsigned listed = blocks[kv_head];
  const unsigned begin = static_cast<unsigned>(static_cast<unsigned long long>(listed) * split / splits);
  const unsigned end = static_cast<unsigned>(static_cast<unsigned long long>(listed) * (split + 1) / splits);
  unsigned keys = (end - begin) * block_tokens;
  if (end == listed && keys > 0) keys -= block_tokens - last_tokens[kv_head];
  const unsigned* list = slots + static_cast<unsigned long long>(kv_head) * stride + begin;

  const auto locate = [&](unsigned first, unsigned buffer) {
    const unsigned key = first + thread;
    if (thread < S::TILE && key < keys) {
      rows[buffer * S::TILE + thread] = key_row(list[key / block_tokens], key % block_tokens, block_tokens, D);
    }
  };

  for (unsigned i = thread; i < padded * D; i += THREADS) {
    query[i] = i < group * D ? queries[static_cast<unsigned long long>(kv_head) * group * D + i] * (scale * LOG2_E) : 0.0f;
  }

  // Columns and heads of this thread when values are summed. Threads beyond those that the heads need share the keys.
  const unsigned column = thread % S::PIECES, place = thread / S::PIECES;
  const unsigned places = chunks == 1 ? 1 : chunks == 2 ? 2 : 4;
  const unsigned chunk = place % places, part = place / places, parts = S::ROWS / places;
  const bool summing = chunk < chunks;

  if (thread < MAX_GROUP) {
    state.maximum[thread] = negative_infinity();
    state.sum[thread] = 0.0f;
    state.rescale[thread] = 0.0f;
  }
  float out[CHUNK][PIECE] = {};
  uint4 pieces[S::LOADS];

  locate(0, 0);
  __syncthreads();
  load<D>(pool, rows, 0, keys, pieces);
  for (unsigned first = 0, buffer = 0; first < keys; first += S::TILE, buffer ^= 1) {
    const unsigned left = keys - first, valid = left < S::TILE ? left : S::TILE;
    store<D>(pieces, tile);
    load<D>(pool, rows + buffer * S::TILE, value_offset(block_tokens, D), valid, pieces);
    locate(first + S::TILE, buffer ^ 1);
    __syncthreads();
    scores<T, D>(tile, query, chunks, valid, score);
    __syncthreads();
    store<D>(pieces, tile);
    load<D>(pool, rows + (buffer ^ 1) * S::TILE, 0, left - valid, pieces);
    weigh<D>(state, group, chunks, score);
    __syncthreads();
    if (summing) {
#pragma unroll
      for (unsigned h = 0; h < CHUNK; h++) {
        const float factor = state.rescale[chunk * CHUNK + h];
#pragma unroll
        for (unsigned e = 0; e < PIECE; e++) out[h][e] *= factor;
      }
      accumulate<T, D>(tile, score + chunk * CHUNK, score_stride(chunks), column, part, parts, valid, out);
    }
    __syncthreads();
  }

  // Add up what the threads that shared the keys have summed, through the tile's memory.
  const unsigned long long partial = static_cast<unsigned long long>(first_split + split) * gridDim.x + kv_head;
  float* sums = reinterpret_cast<float*>(tile);  // [place][CHUNK][D]
#pragma unroll
  for (unsigned h = 0; h < CHUNK; h++) {
#pragma unroll
    for (unsigned e = 0; e < PIECE; e++) sums[(place * CHUNK + h) * D + column * PIECE + e] = out[h][e];
  }
  if (thread < group) partial_lse[partial * group + thread] = natural_log_sum_exp(state.maximum[thread], state.sum[thread]);
  __syncthreads();
  for (unsigned i = thread; i < group * D; i += THREADS) {
    const unsigned head = i / D;
    float sum = 0.0f;
    for (unsigned p = 0; p < parts; p++) sum += sums[(p * places * CHUNK + head) * D + i % D];
    partial_out[partial * group * D + i] = state.sum[head] > 0.0f ? sum / state.sum[head] : 0.0f;
  }
}

}  // namespace decode

// Grid (kv_heads, splits), `decode::THREADS` threads, dynamic shared memory for queries and scores of the padded group.
//
// queries [heads, D]; slots [kv_heads, stride]; blocks and last_tokens [kv_heads]; partial_out [all splits, heads, D];
// partial_lse [all splits, heads]. Split i writes partial first_split + i; an empty part writes 0 and -inf.
#define DECODE_ATTENTION(T, D)                                                                                        \
  extern "C" __global__ void __launch_bounds__(decode::THREADS, decode::RESIDENT) decode_attention_##T##_d##D(        \
      const float* queries, const T* pool, const unsigned* slots, const unsigned* blocks, const unsigned* last_tokens,\
      unsigned stride, unsigned group, unsigned block_tokens, unsigned splits, unsigned first_split, float scale,     \
      float* partial_out, float* partial_lse) {                                                                       \
    decode::attend<T, D>(queries, pool, slots, blocks, last_tokens, stride, group, block_tokens, splits, first_split, \
                         scale, partial_out, partial_lse);                                                            \
  }

DECODE_ATTENTION(f16, 64)
DECODE_ATTENTION(f16, 128)
DECODE_ATTENTION(f16, 256)
DECODE_ATTENTION(bf16, 64)
DECODE_ATTENTION(bf16, 128)
DECODE_ATTENTION(bf16, 256)
