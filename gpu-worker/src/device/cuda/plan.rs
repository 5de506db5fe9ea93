//! What of the GPU's memory a run needs, worked out before any of it is taken.

use std::fmt;

use cudarc::driver::CudaContext;
use hindsight_protocol::arena::Layout;
use hindsight_protocol::geometry::Geometry;

use super::Demand;
use super::error::{CudaError, tried};
use super::pools::{FRESH_TOKENS, PART_TOKENS};

/// Memory of the GPU that candle's activations and libraries take besides, at most, for chunks of a prompt: a guess on the
/// safe side.
const ACTIVATION_BYTES: usize = 512 << 20;

/// Bytes of the GPU's memory, by what they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The model's weights.
    pub weights: usize,
    /// The layers whose keys and values all lie on the GPU, with the whole context.
    pub resident: usize,
    /// How many layers these are.
    pub resident_layers: usize,
    /// The block cache of the other layers.
    pub cache: usize,
    /// Blocks of each layer and KV head that it holds.
    pub cache_blocks: u32,
    /// Keys and values that pass through: of the chunk at hand and of the text before it.
    pub passing: usize,
    /// Activations and the libraries' own memory.
    pub activations: usize,
}

impl MemoryPlan {
    /// The plan of a run over an arena of this layout.
    #[must_use]
    pub fn new(layout: &Layout, demand: Demand) -> Self {
        let Demand { dense_layers, cache_blocks, weights } = demand;
        let Geometry { layers, kv_heads, block_tokens, .. } = *layout.geometry();
        let block_bytes = layout.geometry().block_bytes();
        let context = layout.capacity();
        let resident_layers = dense_layers.min(layers as usize);
        let heads = |layers: usize| layers * kv_heads as usize * block_bytes;
        let passing_tokens = 2 * PART_TOKENS + FRESH_TOKENS;
        Self {
            weights,
            resident: heads(resident_layers) * layout.geometry().blocks(context),
            resident_layers,
            cache: heads(layers as usize - resident_layers) * cache_blocks as usize,
            cache_blocks,
            passing: heads(1) * (passing_tokens / block_tokens as usize + 1),
            activations: if weights > 0 { ACTIVATION_BYTES } else { 0 },
        }
    }

    /// Compares the plan with what is free.
    ///
    /// # Errors
    /// [`CudaError::Memory`] if it does not fit, or what the driver says.
    pub fn check(self, context: &CudaContext) -> Result<(), CudaError> {
        context.bind_to_thread().map_err(tried("be used by this thread"))?;
        let (free, _) = context.mem_get_info().map_err(tried("say how much memory is free"))?;
        if self.total() <= free {
            Ok(())
        } else {
            Err(CudaError::Memory { plan: Box::new(self), free })
        }
    }

    /// Bytes in all.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.weights + self.resident + self.cache + self.passing + self.activations
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weights, resident, resident_layers, cache, cache_blocks, passing, .. } = self;
        write!(
            formatter,
            "{} bytes of the GPU's memory are needed: {weights} for weights, {resident} for {resident_layers} dense \
             layers with the whole context, {cache} for a block cache of {cache_blocks} blocks per layer and KV head, \
             {passing} for keys and values that pass through, {} for activations",
            self.total(),
            self.activations,
        )
    }
}
