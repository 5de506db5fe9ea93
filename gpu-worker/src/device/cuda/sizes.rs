//! How much room a model's chunks, lists and partial results take.

use hindsight_cuda::launch::decode_tile;
use hindsight_protocol::arena::{Layout, SLAB_TOKENS};
use hindsight_protocol::geometry::Geometry;

use super::passing::PART_SPLITS;
use super::pools::{FRESH_TOKENS, PART_TOKENS};
use crate::engine::CHUNK_TOKENS;

/// Parts that one token's attention to a list of blocks is split into, at most.
const MAX_SPLITS: usize = 64;

/// Counts of a run that follow from its arena.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    /// Elements of one token's queries.
    pub(super) width: usize,
    pub(super) block_tokens: usize,
    /// Tokens below which a split is not worth its while.
    split_tokens: usize,
    /// Blocks of the whole context.
    pub(super) context_blocks: usize,
    /// Elements of a chunk's queries, of its keys, and of its log-sum-exps.
    pub(super) chunk_queries: usize,
    pub(super) chunk_keys: usize,
    pub(super) chunk_log_sum_exps: usize,
    /// Partial results of one token, at most.
    pub(super) splits: usize,
    /// 32-bit words of a set of lists, at most.
    pub(super) list_words: usize,
    /// Bytes that are staged at a time, at most.
    pub(super) staging_bytes: usize,
}

impl Sizes {
    pub(super) fn of(layout: &Layout) -> Self {
        let geometry = layout.geometry();
        let &Geometry { heads, kv_heads, head_dim, block_tokens, .. } = geometry;
        let [heads, kv_heads, block_tokens] =
            [heads, kv_heads, block_tokens].map(|count| count as usize);
        let context = layout.capacity();
        let selected = layout.config().max_selected_blocks as usize;
        let chunk_blocks = FRESH_TOKENS / block_tokens + 2;
        let parts = context.div_ceil(PART_TOKENS);
        let staged_blocks = (kv_heads * selected).max(SLAB_TOKENS / block_tokens);
        let width = heads * head_dim as usize;
        Self {
            heads,
            kv_heads,
            width,
            block_tokens,
            split_tokens: decode_tile(head_dim) as usize,
            context_blocks: geometry.blocks(context),
            chunk_queries: CHUNK_TOKENS * width,
            chunk_keys: CHUNK_TOKENS * kv_heads * head_dim as usize,
            chunk_log_sum_exps: CHUNK_TOKENS * heads,
            splits: (parts * PART_SPLITS).max(2 * MAX_SPLITS),
            // A selection's hits, misses, and where misses come from and go to; a few numbers for each head.
            list_words: kv_heads * (5 * selected.max(chunk_blocks) + 16),
            staging_bytes: staged_blocks * geometry.block_bytes(),
        }
    }

    /// The parts that one token's attention to `blocks` blocks is split into.
    pub(super) fn splits_of(&self, blocks: usize) -> usize {
        (blocks * self.block_tokens).div_ceil(self.split_tokens).clamp(1, MAX_SPLITS)
    }
}
