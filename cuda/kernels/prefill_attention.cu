// Causal attention of a chunk of a prompt to listed blocks of keys and values. The keys may be a part of all keys: what
// earlier parts came to is merged with.
//
// Flash attention in f32, without tensor cores. A thread block serves one KV head and a tile of query rows: the heads of
// the group for consecutive tokens, so that a key is read once for all of them. Each thread owns four neighbouring rows:
// their scores against some keys of a tile, and eight columns of their sums. What is read for four rows at a time lies in
// shared memory with its rows side by side.
#include "blocks.cuh"
#include "shared_memory.cuh"
#include "softmax.cuh"

namespace prefill {

constexpr unsigned THREADS = 128;
constexpr unsigned KEYS = 32;          // of a tile
constexpr unsigned THREAD_ROWS = 4;

template <unsigned D>
struct Shape {
  static constexpr unsigned PIECES = D / PIECE;                      // of a row, and threads that share query rows
  static constexpr unsigned LOAD_ROWS = THREADS / PIECES;            // keys that the block loads at a time
  static constexpr unsigned ROWS = LOAD_ROWS * THREAD_ROWS;          // of a tile of queries
  static constexpr unsigned ROW_STRIDE = ROWS + 4;                   // floats, padded against bank conflicts
  static constexpr unsigned THREAD_KEYS = KEYS / PIECES;             // of a tile, in a thread's scores
  static constexpr unsigned STRIDE = PIECES + 1;                     // pieces, padded
};

// Four floats in one access.
__device__ __forceinline__ void load_four(const float* source, float (&four)[4]) {
  const float4 loaded = *reinterpret_cast<const float4*>(source);
  four[0] = loaded.x;
  four[1] = loaded.y;
  four[2] = loaded.z;
  four[3] = loaded.w;
}

struct Keys {
  const uint4* pool;
  const unsigned* slots;  // of this KV head
  unsigned block_tokens;
};

// Brings keys (`values`: values) [first, first + KEYS) to the tile; zeros from `end` on.
template <unsigned D>
__device__ __forceinline__ void load(const Keys& keys, unsigned first, unsigned end, bool values, uint4* tile) {
  using S = Shape<D>;
  const unsigned column = threadIdx.x % S::PIECES;
  const unsigned offset = (values ? value_offset(keys.block_tokens, D) : 0) + column;
#pragma unroll
  for (unsigned row = threadIdx.x / S::PIECES; row < KEYS; row += S::LOAD_ROWS) {
    const unsigned key = first + row;
    uint4 piece = make_uint4(0, 0, 0, 0);
    if (key < end) {
      piece = keys.pool[key_row(keys.slots[key / keys.block_tokens], key % keys.block_tokens, keys.block_tokens, D) + offset];
    }
    tile[row * S::STRIDE + column] = piece;
  }
}

// score[key][row] = query[row] . tile[key] for this thread's keys and rows, which begin at `first_row`.
template <typename T, unsigned D>
__device__ __forceinline__ void scores(const float* query, const uint4* tile, unsigned first_row,
                                       float (&score)[Shape<D>::THREAD_KEYS][THREAD_ROWS]) {
  using S = Shape<D>;
#pragma unroll
  for (unsigned k = 0; k < S::THREAD_KEYS; k++) {
#pragma unroll
    for (unsigned r = 0; r < THREAD_ROWS; r++) score[k][r] = 0.0f;
  }
#pragma unroll 2
  for (unsigned piece = 0; piece < S::PIECES; piece++) {
    float keys[S::THREAD_KEYS][PIECE];
#pragma unroll
    for (unsigned k = 0; k < S::THREAD_KEYS; k++) {
      widen<T>(tile[(threadIdx.x % S::PIECES + k * S::PIECES) * S::STRIDE + piece], keys[k]);
    }
#pragma unroll
    for (unsigned e = 0; e < PIECE; e++) {
      float rows[THREAD_ROWS];
      load_four(query + (piece * PIECE + e) * S::ROW_STRIDE + first_row, rows);
#pragma unroll
      for (unsigned k = 0; k < S::THREAD_KEYS; k++) {
#pragma unroll
        for (unsigned r = 0; r < THREAD_ROWS; r++) score[k][r] += rows[r] * keys[k][e];
      }
    }
  }
}

// out[row] += weight[row][key] * tile[key] for this thread's rows and columns.
template <typename T, unsigned D>
__device__ __forceinline__ void accumulate(const float* weight, const uint4* tile, unsigned first_row, float (&out)[THREAD_ROWS][PIECE]) {
  using S = Shape<D>;
#pragma unroll 4
  for (unsigned key = 0; key < KEYS; key++) {
    float weights[THREAD_ROWS], values[PIECE];
    load_four(weight + key * S::ROW_STRIDE + first_row, weights);
    widen<T>(tile[key * S::STRIDE + threadIdx.x % S::PIECES], values);
#pragma unroll
    for (unsigned r = 0; r < THREAD_ROWS; r++) {
#pragma unroll
      for (unsigned e = 0; e < PIECE; e++) out[r][e] += weights[r] * values[e];
    }
  }
}

// Writes a row's piece, merged with what is there if `accumulate`: `sum` of weights relative to the largest score.
__device__ __forceinline__ void finish(const float (&sums)[PIECE], float maximum, float sum, bool accumulate, float before, float* out) {
  const float part = natural_log_sum_exp(maximum, sum);
  float kept = 0.0f, added = sum > 0.0f ? 1.0f / sum : 0.0f;
  if (accumulate) {
    if (part == negative_infinity()) return;
    const float largest = fmaxf(before, part);
    const float weight_before = part_weight(before, largest), weight_part = part_weight(part, largest);
    kept = weight_before / (weight_before + weight_part);
    added *= weight_part / (weight_before + weight_part);
  }
#pragma unroll
  for (unsigned e = 0; e < PIECE; e++) out[e] = (accumulate ? out[e] * kept : 0.0f) + sums[e] * added;
}

// Log-sum-exp of two sets of keys.
__device__ __forceinline__ float merge(float a, float b) {
  const float largest = fmaxf(a, b);
  return largest + log2f(part_weight(a, largest) + part_weight(b, largest)) * LN_2;
}

template <typename T, unsigned D>
__device__ __forceinline__ void attend(const float* __restrict__ queries, unsigned tokens, unsigned kv_heads, unsigned group,
                                       const T* __restrict__ pool, const unsigned* __restrict__ slots, unsigned stride,
                                       unsigned block_tokens, unsigned key_tokens, unsigned key_start, unsigned query_start,
                                       float scale, float* __restrict__ out, float* __restrict__ lse, bool accumulated) {
  using S = Shape<D>;
  SHARED_ARRAY(float, query, D * S::ROW_STRIDE);  // [D][ROWS], scaled
  SHARED_ARRAY(uint4, tile, KEYS * S::STRIDE);    // keys, then values
  SHARED_ARRAY(float, weight, KEYS * S::ROW_STRIDE);  // [KEYS][ROWS]

  const unsigned thread = threadIdx.x, kv_head = blockIdx.y, heads = kv_heads * group;
  // Row r of the tile is head r % group of token first_token + r / group.
  const unsigned tile_tokens = S::ROWS / group, first_token = blockIdx.x * tile_tokens;
  const unsigned tokens_left = tokens - first_token;
  const unsigned rows = (tokens_left < tile_tokens ? tokens_left : tile_tokens) * group;
  const auto row_index = [&](unsigned row) {
    return static_cast<unsigned long long>(first_token + row / group) * heads + kv_head * group + row % group;
  };
  // Keys that the queries of a row see: those at positions up to the row's own.
  const auto visible = [&](unsigned row) {
    const unsigned position = query_start + first_token + row / group;
    const unsigned seen = position < key_start ? 0 : position - key_start + 1;
    return seen < key_tokens ? seen : key_tokens;
  };

  for (unsigned i = thread; i < S::ROWS * D; i += THREADS) {
    const unsigned row = i / D;
    query[i % D * S::ROW_STRIDE + row] = row < rows ? queries[row_index(row) * D + i % D] * (scale * LOG2_E) : 0.0f;
  }

  const Keys keys = {reinterpret_cast<const uint4*>(pool), slots + static_cast<unsigned long long>(kv_head) * stride, block_tokens};
  const unsigned first_row = thread / S::PIECES * THREAD_ROWS, column = thread % S::PIECES;
  unsigned seen[THREAD_ROWS];
  float maximum[THREAD_ROWS], sum[THREAD_ROWS];
#pragma unroll
  for (unsigned r = 0; r < THREAD_ROWS; r++) {
    const unsigned row = first_row + r;
    seen[r] = row < rows ? visible(row) : 0;
    maximum[r] = negative_infinity();
    sum[r] = 0.0f;
  }
  float sums[THREAD_ROWS][PIECE] = {};

  const unsigned end = visible(rows - 1);  // the last token sees most
  for (unsigned first = 0; first < end; first += KEYS) {
    __syncthreads();
    load<D>(keys, first, end, false, tile);
    __syncthreads();
    float score[S::THREAD_KEYS][THREAD_ROWS];
    scores<T, D>(query, tile, first_row, score);
#pragma unroll
    for (unsigned r = 0; r < THREAD_ROWS; r++) {
      float largest = maximum[r];
#pragma unroll
      for (unsigned k = 0; k < S::THREAD_KEYS; k++) {
        if (first + column + k * S::PIECES >= seen[r]) score[k][r] = negative_infinity();
        largest = fmaxf(largest, score[k][r]);
      }
      largest = lanes_max(largest, S::PIECES);
      const float factor = rescale_factor(maximum[r], largest);
      maximum[r] = largest;
      sum[r] *= factor;
#pragma unroll
      for (unsigned e = 0; e < PIECE; e++) sums[r][e] *= factor;
#pragma unroll
      for (unsigned k = 0; k < S::THREAD_KEYS; k++) {
        // A row that has seen no key yet weighs none.
        score[k][r] = largest == negative_infinity() ? 0.0f : exp2f(score[k][r] - largest);
        sum[r] += score[k][r];
      }
    }
#pragma unroll
    for (unsigned k = 0; k < S::THREAD_KEYS; k++) {
      float* weights = weight + (column + k * S::PIECES) * S::ROW_STRIDE + first_row;
      *reinterpret_cast<float4*>(weights) = make_float4(score[k][0], score[k][1], score[k][2], score[k][3]);
    }
    __syncthreads();
    load<D>(keys, first, end, true, tile);
    __syncthreads();
    accumulate<T, D>(weight, tile, first_row, sums);
  }

#pragma unroll
  for (unsigned r = 0; r < THREAD_ROWS; r++) {
    const float total = lanes_sum(sum[r], S::PIECES);
    const unsigned row = first_row + r;
    const unsigned long long index = row_index(row);
    const float before = row < rows && accumulated ? lse[index] : negative_infinity();
    // All threads of the row have read what it holds before one of them writes it.
    __syncwarp();
    if (row >= rows) continue;
    finish(sums[r], maximum[r], total, accumulated, before, out + index * D + column * PIECE);
    if (column == 0) lse[index] = merge(before, natural_log_sum_exp(maximum[r], total));
  }
}

}  // namespace prefill

// Grid (ceil(tokens / (ROWS / group)), kv_heads), `prefill::THREADS` threads.
//
// queries, out [tokens, heads, D]; lse [tokens, heads]; slots [kv_heads, stride]. Of the keys listed the first
// `key_tokens` count, at positions from key_start on; queries stand at positions from query_start on.
#define PREFILL_ATTENTION(T, D)                                                                                          \
  extern "C" __global__ void __launch_bounds__(prefill::THREADS) prefill_attention_##T##_d##D(                         \
      const float* queries, unsigned tokens, unsigned kv_heads, unsigned group, const T* pool, const unsigned* slots,    \
      unsigned stride, unsigned block_tokens, unsigned key_tokens, unsigned key_start, unsigned query_start, float scale, \
      float* out, float* lse, unsigned accumulate) {                                                                     \
    prefill::attend<T, D>(queries, tokens, kv_heads, group, pool, slots, stride, block_tokens, key_tokens, key_start,     \
                          query_start, scale, out, lse, accumulate != 0);                                                \
  }

PREFILL_ATTENTION(f16, 64)
PREFILL_ATTENTION(f16, 128)
PREFILL_ATTENTION(f16, 256)
PREFILL_ATTENTION(bf16, 64)
PREFILL_ATTENTION(bf16, 128)
PREFILL_ATTENTION(bf16, 256)
