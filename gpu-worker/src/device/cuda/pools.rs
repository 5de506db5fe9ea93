//! Where keys and values lie on the GPU: pools of blocks, and what is in their slots.

use std::sync::Arc;

use cudarc::driver::CudaContext;
use cudarc::driver::sys::CUdeviceptr;
use hindsight_protocol::geometry::Geometry;
use hindsight_protocol::records::SelectedBlock;

use super::error::CudaError;
use super::memory::DeviceBuffer;

/// Tokens of the text so far that pass through the GPU at a time, of all KV heads of a layer. Two such parts lie there, so
/// that one is attended while the next one comes.
pub(super) const PART_TOKENS: usize = 2048;
/// Tokens of a prompt's chunk at most, with those that its first block begins with.
pub(super) const FRESH_TOKENS: usize = crate::engine::CHUNK_TOKENS + 64;

/// An array of blocks.
#[derive(Debug)]
pub(super) struct Pool {
    memory: DeviceBuffer<u16>,
    block_elements: usize,
}

impl Pool {
    pub(super) fn new(
        context: &Arc<CudaContext>,
        geometry: &Geometry,
        slots: usize,
    ) -> Result<Self, CudaError> {
        let block_elements = geometry.block_bytes() / size_of::<u16>();
        let memory = DeviceBuffer::new(context, slots * block_elements)?;
        Ok(Self { memory, block_elements })
    }

    /// The address of a slot.
    ///
    /// # Panics
    /// If it lies beyond the end.
    pub(super) fn slot(&self, slot: usize) -> CUdeviceptr {
        self.memory.at(slot * self.block_elements)
    }
}

/// The blocks of the layers that select: a fixed number of slots for each layer and KV head. The indexer decides what lies
/// in them; what is believed of them here is only what has been put there.
#[derive(Debug)]
pub(super) struct BlockCache {
    pub(super) pool: Pool,
    /// The block in each slot.
    held: Vec<u32>,
    /// The position of each layer's next token, if the newest blocks hold all tokens before it.
    next: Vec<usize>,
    first_layer: usize,
    kv_heads: usize,
    slots: u32,
}

const NONE: u32 = u32::MAX;

impl BlockCache {
    /// A cache of `slots` slots for each KV head of the layers from `first_layer` on.
    pub(super) fn new(
        context: &Arc<CudaContext>,
        geometry: &Geometry,
        first_layer: usize,
        slots: u32,
    ) -> Result<Self, CudaError> {
        let kv_heads = geometry.kv_heads as usize;
        let layers = (geometry.layers as usize).saturating_sub(first_layer);
        let all = layers * kv_heads * slots as usize;
        let pool = Pool::new(context, geometry, all)?;
        let next = vec![0; layers];
        Ok(Self { pool, held: vec![NONE; all], next, first_layer, kv_heads, slots })
    }

    /// Forgets what lies in it.
    pub(super) fn clear(&mut self) {
        self.held.fill(NONE);
        self.next.fill(0);
    }

    /// States that the newest blocks of a layer are given the token at `position`; returns whether they held all before it.
    pub(super) fn advance(&mut self, layer: usize, position: usize) -> bool {
        let next = &mut self.next[layer - self.first_layer];
        std::mem::replace(next, position + 1) == position
    }

    /// The pool's slot of one KV head's selected block, and whether the block is there; if not, it is taken to be from now on.
    ///
    /// # Errors
    /// [`CudaError::Slot`].
    pub(super) fn place(
        &mut self,
        layer: usize,
        kv_head: usize,
        selected: SelectedBlock,
    ) -> Result<(usize, bool), CudaError> {
        let (slot, slots) = (selected.slot(), self.slots);
        if slot >= slots {
            return Err(CudaError::Slot { slot, slots });
        }
        let head = (layer - self.first_layer) * self.kv_heads + kv_head;
        let slot = head * slots as usize + slot as usize;
        let held = std::mem::replace(&mut self.held[slot], selected.block);
        Ok((slot, held == selected.block))
    }
}
