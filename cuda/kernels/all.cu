// All kernels, for one module.
#include "append.cu"
#include "decode_attention.cu"
#include "gather_blocks.cu"
#include "merge_partials.cu"
#include "prefill_attention.cu"
