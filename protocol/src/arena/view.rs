//! Keys and values of one head, where they lie.

use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::arena::layout::{Layout, SLAB_TOKENS};
use crate::arena::segment::Mapping;
use crate::geometry::KvDtype;

/// Blocks of one (sequence, layer, KV head): the tokens that have been published, in the order of the text.
///
/// Elements are raw 16-bit words of [`HeadBlocks::dtype`]. The blocks of one extent ([`SLAB_TOKENS`] tokens) lie one
/// after the other in memory.
#[derive(Debug, Clone, Copy)]
pub struct HeadBlocks<'a> {
    /// Extent of the layer and head in slab 0.
    base: NonNull<u16>,
    slabs: &'a [u32],
    /// Elements from one slab to the next.
    slab_stride: usize,
    block_tokens: usize,
    head_dim: usize,
    dtype: KvDtype,
    tokens: usize,
    memory: PhantomData<&'a Mapping>,
}

// SAFETY: the memory behind a view is only read through it, and stays mapped while the view lives.
unsafe impl Send for HeadBlocks<'_> {}
// SAFETY: as above.
unsafe impl Sync for HeadBlocks<'_> {}

impl<'a> HeadBlocks<'a> {
    pub(crate) fn new(
        kv: &'a Mapping,
        layout: &Layout,
        slabs: &'a [u32],
        layer: usize,
        kv_head: usize,
        tokens: usize,
    ) -> Self {
        let geometry = layout.geometry();
        assert!(layer < geometry.layers as usize && kv_head < geometry.kv_heads as usize);
        assert!(tokens <= slabs.len() * SLAB_TOKENS, "{tokens} tokens in {} slabs", slabs.len());
        assert!(slabs.iter().all(|&slab| slab < layout.slabs()), "a slab beyond the arena");
        let extent = kv.range(layout.extent_offset(layer, kv_head), layout.extent_bytes());
        Self {
            base: extent.cast(),
            slabs,
            slab_stride: layout.slab_bytes() / size_of::<u16>(),
            block_tokens: geometry.block_tokens as usize,
            head_dim: geometry.head_dim as usize,
            dtype: geometry.dtype,
            tokens,
            memory: PhantomData,
        }
    }

    /// Tokens shown.
    #[must_use]
    pub const fn tokens(&self) -> usize {
        self.tokens
    }

    /// Tokens of a full block.
    #[must_use]
    pub const fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    /// Elements of a key or value.
    #[must_use]
    pub const fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Element type.
    #[must_use]
    pub const fn dtype(&self) -> KvDtype {
        self.dtype
    }

    /// Blocks shown; the last may be partly filled.
    #[must_use]
    pub const fn blocks(&self) -> usize {
        self.tokens.div_ceil(self.block_tokens)
    }

    /// The same blocks, showing only the first `tokens` tokens.
    ///
    /// # Panics
    /// If that is more than are shown now.
    #[must_use]
    pub fn truncated(self, tokens: usize) -> Self {
        assert!(tokens <= self.tokens, "{tokens} of {} tokens", self.tokens);
        Self { tokens, ..self }
    }

    /// Keys of `block`: [tokens in the block, head_dim].
    ///
    /// # Panics
    /// If `block` is not shown.
    #[must_use]
    pub fn keys(&self, block: usize) -> &'a [u16] {
        self.part(block, 0)
    }

    /// Values of `block`: [tokens in the block, head_dim].
    ///
    /// # Panics
    /// If `block` is not shown.
    #[must_use]
    pub fn values(&self, block: usize) -> &'a [u16] {
        self.part(block, self.block_tokens * self.head_dim)
    }

    /// Key of one token: `[head_dim]`.
    ///
    /// # Panics
    /// If `token` is not shown.
    #[must_use]
    pub fn key(&self, token: usize) -> &'a [u16] {
        self.element_row(token, 0)
    }

    /// Value of one token: `[head_dim]`.
    ///
    /// # Panics
    /// If `token` is not shown.
    #[must_use]
    pub fn value(&self, token: usize) -> &'a [u16] {
        self.element_row(token, self.block_tokens * self.head_dim)
    }

    fn part(&self, block: usize, offset: usize) -> &'a [u16] {
        let first = block * self.block_tokens;
        assert!(first < self.tokens, "block {block} of {}", self.blocks());
        let rows = self.block_tokens.min(self.tokens - first);
        // SAFETY: `new` checked that each slab lies inside the mapping, and `first` is among the tokens they hold.
        // Published tokens are not written again, so the slice does not change while it is borrowed.
        unsafe {
            let start = self.block_of(first).add(offset);
            std::slice::from_raw_parts(start.as_ptr(), rows * self.head_dim)
        }
    }

    fn element_row(&self, token: usize, offset: usize) -> &'a [u16] {
        assert!(token < self.tokens, "token {token} of {}", self.tokens);
        let row = (token & (self.block_tokens - 1)) * self.head_dim;
        // SAFETY: as in `part`; the row lies inside the token's block.
        unsafe {
            let start = self.block_of(token).add(offset + row);
            std::slice::from_raw_parts(start.as_ptr(), self.head_dim)
        }
    }

    /// Where the block of `token` starts. Found without a division, as it is asked for every key that is scored: block
    /// sizes and slab sizes are powers of two.
    ///
    /// # Safety
    /// `token` must be shown.
    unsafe fn block_of(&self, token: usize) -> NonNull<u16> {
        let slab = self.slabs[token / SLAB_TOKENS] as usize;
        let first = (token % SLAB_TOKENS) & !(self.block_tokens - 1);
        // SAFETY: the caller's token is shown, so its slab exists, and its block lies inside the head's extent of it.
        unsafe { self.base.add(slab * self.slab_stride + first * 2 * self.head_dim) }
    }
}
