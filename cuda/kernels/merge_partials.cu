// Merges attention over parts of the keys by log-sum-exp.
#include "softmax.cuh"

// Grid (heads), any number of threads.
//
// partial_out [splits, heads, dim], partial_lse [splits, heads] (natural; -inf where a part has no key), out [heads, dim],
// lse [heads]. Where no part has a key: 0 and -inf.
extern "C" __global__ void __launch_bounds__(128)
    merge_partials(const float* __restrict__ partial_out, const float* __restrict__ partial_lse, unsigned splits, unsigned heads,
                   unsigned dim, float* __restrict__ out, float* __restrict__ lse) {
  const unsigned head = blockIdx.x;
  float largest = negative_infinity();
  for (unsigned split = 0; split < splits; split++) largest = fmaxf(largest, partial_lse[split * heads + head]);
  float total = 0.0f;
  for (unsigned split = 0; split < splits; split++) total += part_weight(partial_lse[split * heads + head], largest);
  for (unsigned d = threadIdx.x; d < dim; d += blockDim.x) {
    float sum = 0.0f;
    if (total > 0.0f) {
      for (unsigned split = 0; split < splits; split++) {
        const float weight = part_weight(partial_lse[split * heads + head], largest);
        sum += weight * partial_out[(static_cast<unsigned long long>(split) * heads + head) * dim + d];
      }
      sum /= total;
    }
    out[static_cast<unsigned long long>(head) * dim + d] = sum;
  }
  if (threadIdx.x == 0) lse[head] = total > 0.0f ? largest + log2f(total) * LN_2 : negative_infinity();
}
