//! Keys and values in an arena of this process's own.

use hindsight_protocol::arena::{
    Arena, ArenaConfig, ArenaError, ArenaMemory, HeadBlocks, Pages, TableError, TableOwner,
};
use hindsight_protocol::geometry::Geometry;

/// A KV cache that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The arena cannot be made, or has no memory left.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// The text does not fit the arena.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// All keys and values of one sequence, laid out as the worker lays them out.
#[derive(Debug)]
pub struct KvCache {
    arena: Arena,
    slabs: Vec<u32>,
    tokens: usize,
}

const SEQUENCE: u32 = 0;

impl KvCache {
    /// A cache of `tokens` tokens; `fill` writes the key and the value of a given layer, KV head and token.
    ///
    /// # Errors
    /// If the geometry is not valid, or there is no memory.
    pub fn fill(
        geometry: Geometry,
        tokens: usize,
        mut fill: impl FnMut(usize, usize, usize, &mut [f32], &mut [f32]),
    ) -> Result<Self, CacheError> {
        let config =
            ArenaConfig { geometry, capacity_tokens: tokens as u64, max_selected_blocks: 1 };
        // As runs take them by default.
        let memory = ArenaMemory { pages: Pages::Huge, ..ArenaMemory::default() };
        let arena = Arena::create_in(config, memory)?;
        let owner = TableOwner::new(arena.tables(), 1);
        owner.open(SEQUENCE)?;
        owner.reserve(SEQUENCE, tokens as u64, |slab| {
            arena.populate_slab(slab).map_err(CacheError::from)
        })?;
        let mut slabs = Vec::new();
        arena.tables().read_slabs(SEQUENCE, &mut slabs)?;
        let mut writer = arena.writer()?;
        let mut key = vec![0.0; geometry.head_dim as usize];
        let mut value = key.clone();
        for layer in 0..geometry.layers as usize {
            for head in 0..geometry.kv_heads as usize {
                for token in 0..tokens {
                    fill(layer, head, token, &mut key, &mut value);
                    writer.write(&slabs, layer, head, token, &key, &value);
                }
            }
        }
        Ok(Self { arena, slabs, tokens })
    }

    /// Shape of the cache.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        self.arena.geometry()
    }

    /// Tokens that the cache holds.
    #[must_use]
    pub const fn tokens(&self) -> usize {
        self.tokens
    }

    /// Bytes of the keys and values.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.tokens * self.arena.geometry().token_bytes()
    }

    /// The first `tokens` tokens of one layer and KV head.
    ///
    /// # Panics
    /// If the cache does not hold them.
    #[must_use]
    pub fn head(&self, layer: usize, kv_head: usize, tokens: usize) -> HeadBlocks<'_> {
        assert!(tokens <= self.tokens, "{tokens} of {} tokens", self.tokens);
        self.arena.head(&self.slabs, layer, kv_head, tokens)
    }
}
