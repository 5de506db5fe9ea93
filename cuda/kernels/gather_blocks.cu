// Copies blocks from anywhere the device can read (pinned host memory, device memory) into slots of a pool.

// 16-byte reads that a thread has under way: what crosses a bus must overlap.
constexpr unsigned GATHER_LOADS = 4;

// Grid (any number of thread blocks: they take turns), 128 threads.
//
// sources [blocks]: addresses aligned to 16 bytes; slots [blocks]; block_bytes: a multiple of 16.
extern "C" __global__ void __launch_bounds__(128)
    gather_blocks(const unsigned long long* __restrict__ sources, const unsigned* __restrict__ slots, void* __restrict__ pool,
                  unsigned blocks, unsigned block_bytes) {
  const unsigned pieces = block_bytes / sizeof(uint4);
  for (unsigned block = blockIdx.x; block < blocks; block += gridDim.x) {
    const uint4* source = reinterpret_cast<const uint4*>(sources[block]);
    uint4* target = static_cast<uint4*>(pool) + static_cast<unsigned long long>(slots[block]) * pieces;
    for (unsigned first = threadIdx.x; first < pieces; first += blockDim.x * GATHER_LOADS) {
      uint4 loaded[GATHER_LOADS];
#pragma unroll
      for (unsigned i = 0; i < GATHER_LOADS; i++) {
        const unsigned piece = first + i * blockDim.x;
        if (piece < pieces) loaded[i] = source[piece];
      }
#pragma unroll
      for (unsigned i = 0; i < GATHER_LOADS; i++) {
        const unsigned piece = first + i * blockDim.x;
        if (piece < pieces) target[piece] = loaded[i];
      }
    }
  }
}
