//! The sequences whose keys and values the arena holds, and the index of each.

use hindsight_protocol::arena::{
    Arena, ArenaError, HeadBlocks, MAX_SEQUENCES, SLAB_TOKENS, TableError, TableOwner,
};
use hindsight_protocol::geometry::Geometry;
use hindsight_protocol::records::{AttentionPolicy, Refusal};

use crate::index::Index;
use crate::parameters::{IndexParameters, ParameterError, Policy};
use crate::residency::{CacheTooSmall, Residency};

/// A request that the store does not carry out.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The block tables refuse.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The arena refuses.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// The index refuses.
    #[error(transparent)]
    Parameters(#[from] ParameterError),
    /// The worker's block cache cannot hold what a step may attend to.
    #[error(transparent)]
    Cache(#[from] CacheTooSmall),
    /// The worker names a layer or token that does not exist, or that it has not announced.
    #[error("sequence {sequence} has no layer {layer} of {tokens} tokens")]
    NoSuchTokens {
        /// The sequence.
        sequence: u32,
        /// The layer.
        layer: u32,
        /// Tokens that it would need.
        tokens: u64,
    },
}

impl StoreError {
    /// What the worker is told.
    #[must_use]
    pub fn refusal(&self, slab_bytes: u64) -> Refusal {
        match *self {
            Self::Table(TableError::Full { asked, available }) => {
                Refusal::ArenaFull { asked, available }
            }
            Self::Arena(_) => Refusal::NoMemory { bytes: slab_bytes },
            _ => Refusal::Invalid,
        }
    }
}

/// One sequence: where it lies, what the index has learned about it, and what the worker's cache holds of it.
#[derive(Debug)]
pub struct Sequence {
    slabs: Vec<u32>,
    /// What selects its blocks; nothing for a sequence that attends to every key.
    pub index: Option<Index>,
    /// The worker's block cache, per (layer, KV head).
    pub residency: Vec<Residency>,
}

/// All sequences of an arena, seen by the owner of its block tables.
#[derive(Debug)]
pub struct Store<'a> {
    arena: &'a Arena,
    owner: TableOwner<'a>,
    parameters: IndexParameters,
    cache_blocks: usize,
    sequences: [Option<Box<Sequence>>; MAX_SEQUENCES],
}

impl<'a> Store<'a> {
    /// Takes over an arena's block tables in the name of `epoch`. `cache_blocks` is the size of the worker's block cache
    /// for each (layer, KV head).
    ///
    /// # Errors
    /// If such a cache cannot hold what a step may attend to.
    pub fn new(
        arena: &'a Arena,
        epoch: u32,
        parameters: IndexParameters,
        cache_blocks: usize,
    ) -> Result<Self, CacheTooSmall> {
        let owner = TableOwner::new(arena.tables(), epoch);
        let sequences = [const { None }; MAX_SEQUENCES];
        let store = Self { arena, owner, parameters, cache_blocks, sequences };
        store.check_cache(&store.parameters)?;
        Ok(store)
    }

    /// Starts a sequence.
    ///
    /// # Errors
    /// [`StoreError::Table`], [`StoreError::Parameters`] or [`StoreError::Cache`].
    pub fn open(
        &mut self,
        sequence: u32,
        policy: AttentionPolicy,
        top_k: u32,
    ) -> Result<(), StoreError> {
        let index = self.index(policy, top_k)?;
        let residency = self.residency(index.as_ref())?;
        self.owner.open(sequence)?;
        self.sequences[sequence as usize] =
            Some(Box::new(Sequence { slabs: Vec::new(), index, residency }));
        Ok(())
    }

    /// Forgets what was learned about a sequence, and what the worker's cache holds of it. Its keys and values stay.
    ///
    /// # Errors
    /// [`StoreError::Table`], [`StoreError::Parameters`] or [`StoreError::Cache`].
    pub fn forget(
        &mut self,
        sequence: u32,
        policy: AttentionPolicy,
        top_k: u32,
    ) -> Result<(), StoreError> {
        let index = self.index(policy, top_k)?;
        let residency = self.residency(index.as_ref())?;
        let state = sequence_state(&mut self.sequences, sequence)?;
        (state.index, state.residency) = (index, residency);
        Ok(())
    }

    /// Empty caches for all heads that an index selects for.
    fn residency(&self, index: Option<&Index>) -> Result<Vec<Residency>, CacheTooSmall> {
        let Some(index) = index else { return Ok(Vec::new()) };
        self.check_cache(index.parameters())?;
        let geometry = self.arena.geometry();
        let blocks = geometry.blocks(self.arena.layout().capacity().next_multiple_of(SLAB_TOKENS));
        let heads = geometry.layers * geometry.kv_heads;
        Ok((0..heads).map(|_| Residency::new(self.cache_blocks, blocks)).collect())
    }

    /// Makes sure that a selection always fits the worker's block cache.
    fn check_cache(&self, parameters: &IndexParameters) -> Result<(), CacheTooSmall> {
        let block_tokens = self.arena.geometry().block_tokens as usize;
        let blocks =
            parameters.most_blocks(parameters.top_k, block_tokens, self.arena.layout().capacity());
        let slots = self.cache_blocks;
        if blocks <= slots { Ok(()) } else { Err(CacheTooSmall { slots, blocks }) }
    }

    fn index(&self, policy: AttentionPolicy, top_k: u32) -> Result<Option<Index>, ParameterError> {
        let policy = match policy {
            AttentionPolicy::Full => return Ok(None),
            AttentionPolicy::Exact => Policy::Exact,
            AttentionPolicy::Lfps => Policy::Lfps,
        };
        let geometry = *self.arena.geometry();
        let parameters = IndexParameters { top_k: top_k as usize, ..self.parameters.clone() };
        let scale = softmax_scale(&geometry);
        Index::new(geometry, scale, policy, parameters, self.arena.layout().capacity()).map(Some)
    }

    /// Makes room for `tokens` tokens in all, taking memory from the calling thread's node.
    ///
    /// # Errors
    /// [`StoreError::Table`] if the arena is full, [`StoreError::Arena`] if the machine is.
    pub fn reserve(&mut self, sequence: u32, tokens: u64) -> Result<(), StoreError> {
        self.owner.reserve(sequence, tokens, |slab| -> Result<(), StoreError> {
            Ok(self.arena.populate_slab(slab)?)
        })?;
        let state = sequence_state(&mut self.sequences, sequence)?;
        Ok(self.owner.tables().read_slabs(sequence, &mut state.slabs)?)
    }

    /// Ends a sequence and gives its memory back.
    ///
    /// # Errors
    /// [`StoreError::Table`].
    pub fn close(&mut self, sequence: u32) -> Result<(), StoreError> {
        sequence_state(&mut self.sequences, sequence)?;
        self.sequences[sequence as usize] = None;
        self.owner.close(sequence, |slab| {
            if let Err(error) = self.arena.release_slab(slab) {
                tracing::warn!(slab, %error, "memory stays taken until the arena goes");
            }
        })?;
        Ok(())
    }

    /// A sequence and the first `tokens` tokens of one of its layers, both checked to exist.
    ///
    /// # Errors
    /// [`StoreError`] if the worker named something that does not exist.
    pub fn layer(
        &mut self,
        sequence: u32,
        layer: u32,
        tokens: u64,
    ) -> Result<LayerState<'_>, StoreError> {
        let geometry = self.arena.geometry();
        let arena = self.arena;
        let Sequence { slabs, index, residency } = sequence_state(&mut self.sequences, sequence)?;
        let room = (slabs.len() * SLAB_TOKENS) as u64;
        let missing = StoreError::NoSuchTokens { sequence, layer, tokens };
        if layer >= geometry.layers || tokens > room || tokens == 0 {
            return Err(missing);
        }
        let Some(index) = index else {
            return Err(missing);
        };
        let kv_heads = geometry.kv_heads as usize;
        let layer = layer as usize;
        // `tokens` is at most `room`, which is a number of tokens in memory.
        #[expect(clippy::cast_possible_truncation)]
        let tokens = tokens as usize;
        let residency = &mut residency[layer * kv_heads..][..kv_heads];
        Ok(LayerState { arena, slabs, layer, tokens, index, residency })
    }
}

/// One layer of a sequence, ready to be worked on.
#[derive(Debug)]
pub struct LayerState<'s> {
    arena: &'s Arena,
    slabs: &'s [u32],
    /// The layer's number.
    pub layer: usize,
    /// Tokens that the view shows.
    pub tokens: usize,
    /// The sequence's index.
    pub index: &'s mut Index,
    /// The worker's cache of this layer, per KV head.
    pub residency: &'s mut [Residency],
}

impl<'s> LayerState<'s> {
    /// Keys and values of one KV head.
    #[must_use]
    pub fn view(&self, kv_head: usize) -> HeadBlocks<'s> {
        self.arena.head(self.slabs, self.layer, kv_head, self.tokens)
    }
}

/// The factor of a query and key's product: 1 / sqrt(head_dim).
#[expect(clippy::cast_precision_loss, reason = "head sizes are below 2^24")]
fn softmax_scale(geometry: &Geometry) -> f32 {
    1.0 / (geometry.head_dim as f32).sqrt()
}

fn sequence_state(
    sequences: &mut [Option<Box<Sequence>>; MAX_SEQUENCES],
    sequence: u32,
) -> Result<&mut Sequence, TableError> {
    sequences
        .get_mut(sequence as usize)
        .ok_or(TableError::NoSuchSequence(sequence))?
        .as_deref_mut()
        .ok_or(TableError::NotOpen(sequence))
}

#[cfg(test)]
mod tests {
    use hindsight_protocol::arena::ArenaConfig;
    use hindsight_protocol::geometry::KvDtype;

    use super::*;

    #[test]
    fn a_cache_that_cannot_hold_a_selection_is_refused() {
        let geometry = Geometry {
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            block_tokens: 16,
            dtype: KvDtype::F16,
        };
        let config = ArenaConfig { geometry, capacity_tokens: 4096, max_selected_blocks: 64 };
        let arena = Arena::create(config).unwrap();
        let parameters = IndexParameters { top_k: 32, sink: 4, window: 64, ..Default::default() };
        // A block for each key, one of the sink, and five that a window of 64 tokens touches.
        let small = Store::new(&arena, 1, parameters.clone(), 37).map(|_| ());
        assert_eq!(small, Err(CacheTooSmall { slots: 37, blocks: 38 }));
        let mut store = Store::new(&arena, 2, parameters, 38).unwrap();
        store.open(0, AttentionPolicy::Lfps, 32).unwrap();
        let more = store.open(1, AttentionPolicy::Exact, 33).unwrap_err();
        assert!(matches!(more, StoreError::Cache(CacheTooSmall { slots: 38, blocks: 39 })));
        assert_eq!(more.refusal(0), Refusal::Invalid);
        // What attends to every key needs no cache.
        store.open(1, AttentionPolicy::Full, 33).unwrap();
    }
}
