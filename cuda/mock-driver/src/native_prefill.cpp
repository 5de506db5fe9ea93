#include "native_prefill.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "launch.hpp"
#include "vector_loops.hpp"

namespace mock {
namespace {

constexpr size_t ROWS = 64;  // of a tile of queries: the heads of a group for consecutive tokens
constexpr size_t KEYS = 64;  // of a tile of keys

// The kernel's arguments.
struct Prefill {
  explicit Prefill(const Launch& launch)
      : dim(launch.head_dim()),
        bf16(launch.bf16()),
        queries(launch.argument<const float*>(0)),
        tokens(launch.argument<unsigned>(1)),
        kv_heads(launch.argument<unsigned>(2)),
        group(launch.argument<unsigned>(3)),
        pool(launch.argument<const uint16_t*>(4)),
        slots(launch.argument<const unsigned*>(5)),
        stride(launch.argument<unsigned>(6)),
        block_tokens(launch.argument<unsigned>(7)),
        key_tokens(launch.argument<unsigned>(8)),
        key_start(launch.argument<unsigned>(9)),
        query_start(launch.argument<unsigned>(10)),
        scale(launch.argument<float>(11)),
        out(launch.argument<float*>(12)),
        lse(launch.argument<float*>(13)),
        accumulate(launch.argument<unsigned>(14) != 0) {}

  size_t dim;
  bool bf16;
  const float* queries;
  size_t tokens, kv_heads, group;
  const uint16_t* pool;
  const unsigned* slots;
  size_t stride, block_tokens, key_tokens, key_start, query_start;
  float scale;
  float *out, *lse;
  bool accumulate;

  // Keys that a token's queries see.
  size_t visible(size_t token) const {
    const size_t position = query_start + token;
    return position < key_start ? 0 : std::min(position - key_start + 1, key_tokens);
  }

  // The key row of a token, or its value row.
  const uint16_t* row(size_t kv_head, size_t key, bool value) const {
    const size_t slot = slots[kv_head * stride + key / block_tokens];
    return pool + ((2 * slot + value) * block_tokens + key % block_tokens) * dim;
  }

  void widen(const uint16_t* source, float* target) const {
    (bf16 ? widen_bf16 : widen_f16)(source, dim, target);
  }
};

// A KV head's keys and values in 32 bits, tile by tile: keys transposed, values as they are, zeros after the last.
class Widened {
 public:
  Widened(const Prefill& prefill, size_t kv_head)
      : tile_floats_(KEYS * prefill.dim),
        keys_((prefill.key_tokens + KEYS - 1) / KEYS * tile_floats_),
        values_(keys_.size()) {
    std::vector<float> row(prefill.dim);
    for (size_t key = 0; key < prefill.key_tokens; key++) {
      prefill.widen(prefill.row(kv_head, key, false), row.data());
      float* column = &keys_[key / KEYS * tile_floats_ + key % KEYS];
      for (size_t i = 0; i < prefill.dim; i++) column[i * KEYS] = row[i];
      prefill.widen(prefill.row(kv_head, key, true), &values_[key * prefill.dim]);
    }
  }

  const float* keys(size_t tile) const { return &keys_[tile * tile_floats_]; }
  const float* values(size_t tile) const { return &values_[tile * tile_floats_]; }

 private:
  size_t tile_floats_;
  std::vector<float> keys_, values_;
};

// Online softmax over tiles of keys for a tile of query rows.
class Tile {
 public:
  explicit Tile(const Prefill& prefill)
      : prefill_(prefill),
        queries_(ROWS * prefill.dim),
        scores_(ROWS * KEYS),
        sums_(ROWS * prefill.dim) {}

  void attend(const Widened& widened, size_t kv_head, size_t first_token, size_t tile_tokens) {
    const size_t rows = tile_tokens * prefill_.group, dim = prefill_.dim;
    std::fill(queries_.begin(), queries_.end(), 0.0f);
    std::fill(sums_.begin(), sums_.end(), 0.0f);
    for (size_t row = 0; row < rows; row++) {
      std::copy_n(prefill_.queries + index(kv_head, first_token, row) * dim, dim, &queries_[row * dim]);
      scale(&queries_[row * dim], dim, prefill_.scale);
      maximum_[row] = -INFINITY;
      total_[row] = 0;
    }
    const size_t end = prefill_.visible(first_token + tile_tokens - 1);  // the last token sees most
    for (size_t first = 0; first < end; first += KEYS) {
      const float *keys = widened.keys(first / KEYS), *values = widened.values(first / KEYS);
      multiply(queries_.data(), dim, keys, KEYS, ROWS, dim, KEYS, scores_.data(), KEYS, false);
      for (size_t row = 0; row < rows; row++) weigh(row, first, prefill_.visible(first_token + row / prefill_.group));
      multiply(scores_.data(), KEYS, values, dim, ROWS, KEYS, dim, sums_.data(), dim, true);
    }
    for (size_t row = 0; row < rows; row++) finish(row, index(kv_head, first_token, row));
  }

 private:
  size_t index(size_t kv_head, size_t first_token, size_t row) const {
    const size_t heads = prefill_.kv_heads * prefill_.group;
    return (first_token + row / prefill_.group) * heads + kv_head * prefill_.group + row % prefill_.group;
  }

  // Turns a row's scores into weights relative to the largest so far.
  void weigh(size_t row, size_t first, size_t seen) {
    float* scores = &scores_[row * KEYS];
    const size_t visible = seen > first ? std::min(seen - first, KEYS) : 0;
    std::fill(scores + visible, scores + KEYS, -INFINITY);
    const float maximum = std::max(maximum_[row], largest(scores, KEYS));
    if (maximum == -INFINITY) {
      std::fill_n(scores, KEYS, 0.0f);
      return;
    }
    const float factor = std::exp(maximum_[row] - maximum);
    if (factor != 1.0f) scale(&sums_[row * prefill_.dim], prefill_.dim, factor);
    total_[row] = total_[row] * factor + exponentials(scores, KEYS, maximum);
    maximum_[row] = maximum;
  }

  void finish(size_t row, size_t index) {
    float* out = prefill_.out + index * prefill_.dim;
    float& lse = prefill_.lse[index];
    const float part = total_[row] > 0 ? maximum_[row] + std::log(total_[row]) : -INFINITY;
    const float before = prefill_.accumulate ? lse : -INFINITY;
    const float most = std::max(before, part);
    float kept = 0, added = 0;
    if (most == -INFINITY) {
      lse = -INFINITY;
    } else {
      const float both = std::exp(before - most) + std::exp(part - most);
      lse = most + std::log(both);
      kept = std::exp(before - most) / both;
      added = total_[row] > 0 ? std::exp(part - most) / both / total_[row] : 0;
    }
    for (size_t i = 0; i < prefill_.dim; i++)
      out[i] = (prefill_.accumulate ? out[i] * kept : 0) + sums_[row * prefill_.dim + i] * added;
  }

  const Prefill& prefill_;
  std::vector<float> queries_, scores_, sums_;
  float maximum_[ROWS], total_[ROWS];
};

}  // namespace

void native_prefill(const Launch& launch) {
  const Prefill prefill(launch);
  const size_t tile_tokens = ROWS / prefill.group;
  Tile tile(prefill);
  for (size_t kv_head = 0; kv_head < prefill.kv_heads; kv_head++) {
    const Widened widened(prefill, kv_head);
    for (size_t token = 0; token < prefill.tokens; token += tile_tokens)
      tile.attend(widened, kv_head, token, std::min(tile_tokens, prefill.tokens - token));
  }
}

}  // namespace mock
