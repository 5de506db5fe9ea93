//! Byte offsets of the arena. Nothing outside this module and [`crate::ring`] knows them.
//!
//! ```text
//! ┌ header ┬ query ring ┬ selection ring ┬ block tables ┬ pad ┬ slab 0 ┬ slab 1 ┬ … ┐
//! └ 4 KiB  ┴            ┴                ┴              ┴     ┴ KV region, 2 MiB aligned at both ends ┘
//! slab  = for each layer, for each KV head: one extent
//! extent = SLAB_TOKENS / block_tokens blocks, one after the other in the order of the text
//! block  = K [block_tokens, head_dim], then V [block_tokens, head_dim], 16-bit floats
//! ```

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::geometry::{Geometry, GeometryError, KvDtype};
use crate::records;
use crate::ring::RingLayout;

/// Tokens of a slab, the unit in which a sequence grows.
pub const SLAB_TOKENS: usize = 1024;
/// Sequences that one arena can hold at once.
pub const MAX_SEQUENCES: usize = 64;
/// First eight bytes of an arena.
pub const MAGIC: [u8; 8] = *b"HINDSGHT";
/// Version of everything this crate lays out in shared memory.
pub const VERSION: u32 = 1;

pub(super) const PAGE: usize = 4096;
/// The KV region begins and ends at multiples of it.
pub(super) const HUGE_PAGE: usize = 2 << 20;
/// Query records in flight: enough for a burst of prompt queries.
const QUERY_SLOTS: u32 = 64;
/// Selection records in flight: the worker attends to one KV head while the indexer is at the next.
const SELECTION_SLOTS: u32 = 8;

/// What an arena is made for. Everything else follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ArenaConfig {
    /// Shape of the KV cache.
    pub geometry: Geometry,
    /// Tokens that the arena can hold, over all sequences; rounded up to whole slabs.
    pub capacity_tokens: u64,
    /// The most blocks that one selection names for one KV head.
    pub max_selected_blocks: u32,
}

impl ArenaConfig {
    /// An arena for measurements of memory, not of a model: of `slabs` slabs that hold at least `bytes` each.
    #[must_use]
    pub fn of_slabs(slabs: u32, bytes: usize) -> Self {
        let layer = Geometry {
            layers: 1,
            heads: 8,
            kv_heads: 8,
            head_dim: 128,
            block_tokens: 16,
            dtype: KvDtype::F16,
        };
        let layers = bytes.div_ceil(layer.token_bytes() * SLAB_TOKENS).max(1);
        Self {
            geometry: Geometry { layers: u32::try_from(layers).unwrap_or(u32::MAX), ..layer },
            capacity_tokens: u64::from(slabs) * SLAB_TOKENS as u64,
            max_selected_blocks: 64,
        }
    }
}

/// An arena that cannot be laid out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The geometry is not valid.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The arena would hold nothing.
    #[error("an arena needs room for at least one token and one selected block")]
    Empty,
    /// The arena is larger than an address space.
    #[error("a KV cache of {capacity_tokens} tokens does not fit an address space")]
    TooLarge {
        /// Tokens asked for.
        capacity_tokens: u64,
    },
}

/// Offsets and sizes in bytes, derived from an [`ArenaConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    config: ArenaConfig,
    /// Whole slabs of the KV region.
    slabs: u32,
    query_ring: RingLayout,
    selection_ring: RingLayout,
    tables_offset: usize,
    kv_offset: usize,
    slab_bytes: usize,
    total_bytes: usize,
}

impl Layout {
    /// Lays out an arena.
    ///
    /// # Errors
    /// [`LayoutError`] if the geometry is invalid, the arena empty, or a size overflows.
    pub fn new(config: ArenaConfig) -> Result<Self, LayoutError> {
        config.geometry.validate()?;
        if config.capacity_tokens == 0 || config.max_selected_blocks == 0 {
            return Err(LayoutError::Empty);
        }
        let too_large = LayoutError::TooLarge { capacity_tokens: config.capacity_tokens };
        Self::checked(config).ok_or(too_large)
    }

    fn checked(config: ArenaConfig) -> Option<Self> {
        let geometry = &config.geometry;
        let slabs = u32::try_from(config.capacity_tokens.div_ceil(SLAB_TOKENS as u64)).ok()?;
        let query_ring = RingLayout::new(PAGE, QUERY_SLOTS, records::query_bytes(geometry))?;
        let selection_ring = RingLayout::new(
            query_ring.end(),
            SELECTION_SLOTS,
            records::selection_bytes(config.max_selected_blocks)?,
        )?;
        let tables_offset = align_up(selection_ring.end(), PAGE)?;
        let tables_end = tables_offset.checked_add(table_bytes(slabs)?)?;
        let kv_offset = align_up(tables_end, HUGE_PAGE)?;
        let slab_bytes = geometry.token_bytes().checked_mul(SLAB_TOKENS)?;
        let kv_end = kv_offset.checked_add(slab_bytes.checked_mul(slabs as usize)?)?;
        let total_bytes = align_up(kv_end, HUGE_PAGE)?;
        if total_bytes > isize::MAX as usize {
            return None;
        }
        Some(Self {
            config,
            slabs,
            query_ring,
            selection_ring,
            tables_offset,
            kv_offset,
            slab_bytes,
            total_bytes,
        })
    }

    /// What the arena was made for.
    #[must_use]
    pub const fn config(&self) -> &ArenaConfig {
        &self.config
    }

    /// Tokens that all sequences together may have.
    #[must_use]
    pub fn capacity(&self) -> usize {
        usize::try_from(self.config.capacity_tokens).unwrap_or(usize::MAX)
    }

    /// Shape of the KV cache.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        &self.config.geometry
    }

    /// Slabs of the KV region.
    #[must_use]
    pub const fn slabs(&self) -> u32 {
        self.slabs
    }

    /// Bytes of the whole segment.
    #[must_use]
    pub const fn total_bytes(&self) -> usize {
        self.total_bytes
    }

    /// Bytes of the KV region alone.
    #[must_use]
    pub const fn kv_bytes(&self) -> usize {
        self.slab_bytes * self.slabs as usize
    }

    pub(crate) const fn query_ring(&self) -> &RingLayout {
        &self.query_ring
    }

    pub(crate) const fn selection_ring(&self) -> &RingLayout {
        &self.selection_ring
    }

    /// Offset of the block tables and their length.
    pub(crate) const fn tables(&self) -> (usize, usize) {
        (self.tables_offset, self.kv_offset - self.tables_offset)
    }

    /// Offset of the KV region, a multiple of 2 MiB.
    pub(crate) const fn kv_offset(&self) -> usize {
        self.kv_offset
    }

    /// Bytes of a slab.
    #[must_use]
    pub const fn slab_bytes(&self) -> usize {
        self.slab_bytes
    }

    /// Bytes of one extent: the blocks of one slab, layer and KV head.
    pub(crate) const fn extent_bytes(&self) -> usize {
        self.blocks_per_extent() * self.config.geometry.block_bytes()
    }

    /// Blocks of one extent: blocks of one layer and KV head that follow one another in memory.
    #[must_use]
    pub const fn blocks_per_extent(&self) -> usize {
        SLAB_TOKENS / self.config.geometry.block_tokens as usize
    }

    /// Offset, within a slab, of the extent of `layer` and `kv_head`.
    pub(crate) const fn extent_offset(&self, layer: usize, kv_head: usize) -> usize {
        (layer * self.config.geometry.kv_heads as usize + kv_head) * self.extent_bytes()
    }

    /// The slab that holds a block of a sequence's layer and KV head, and the block's offset in bytes from where the slab begins.
    ///
    /// # Panics
    /// If an argument lies beyond the arena or the sequence.
    #[must_use]
    pub fn block_place(
        &self,
        slabs: &[u32],
        layer: usize,
        kv_head: usize,
        block: usize,
    ) -> (u32, usize) {
        let geometry = &self.config.geometry;
        assert!(layer < geometry.layers as usize && kv_head < geometry.kv_heads as usize);
        let per_extent = self.blocks_per_extent();
        let slab = slabs[block / per_extent];
        assert!(slab < self.slabs, "slab {slab} of {}", self.slabs);
        let in_extent = block % per_extent * geometry.block_bytes();
        (slab, self.extent_offset(layer, kv_head) + in_extent)
    }

    /// A number that two builds share only if they agree on every offset.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let geometry = &self.config.geometry;
        [
            u64::from(VERSION),
            SLAB_TOKENS as u64,
            MAX_SEQUENCES as u64,
            u64::from(geometry.layers),
            u64::from(geometry.heads),
            u64::from(geometry.kv_heads),
            u64::from(geometry.head_dim),
            u64::from(geometry.block_tokens),
            u64::from(geometry.dtype.code()),
            u64::from(self.config.max_selected_blocks),
            u64::from(self.slabs),
            self.query_ring.end() as u64,
            self.selection_ring.end() as u64,
            self.tables_offset as u64,
            self.kv_offset as u64,
            self.total_bytes as u64,
            records::FINGERPRINT,
        ]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

/// Bytes of the block tables: one word per slab, then one table per sequence.
fn table_bytes(slabs: u32) -> Option<usize> {
    let per_sequence = SEQUENCE_WORDS.checked_add(slabs as usize)?;
    let words = per_sequence.checked_mul(MAX_SEQUENCES)?.checked_add(slabs as usize)?;
    words.checked_mul(size_of::<u64>())
}

/// 64-bit words at the head of each sequence's table.
pub(crate) const SEQUENCE_WORDS: usize = 2;

fn align_up(offset: usize, alignment: usize) -> Option<usize> {
    Some(offset.checked_add(alignment - 1)? / alignment * alignment)
}

/// The first bytes of an arena. A joiner believes none of it before it has compared all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) magic: [u8; 8],
    pub(crate) version: u32,
    pub(crate) layers: u32,
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) head_dim: u32,
    pub(crate) block_tokens: u32,
    pub(crate) dtype: u32,
    pub(crate) max_selected_blocks: u32,
    pub(crate) capacity_tokens: u64,
    pub(crate) total_bytes: u64,
    pub(crate) fingerprint: u64,
}

impl Header {
    pub(crate) fn of(layout: &Layout) -> Self {
        let geometry = layout.geometry();
        Self {
            magic: MAGIC,
            version: VERSION,
            layers: geometry.layers,
            heads: geometry.heads,
            kv_heads: geometry.kv_heads,
            head_dim: geometry.head_dim,
            block_tokens: geometry.block_tokens,
            dtype: geometry.dtype.code(),
            max_selected_blocks: layout.config.max_selected_blocks,
            capacity_tokens: layout.config.capacity_tokens,
            total_bytes: layout.total_bytes as u64,
            fingerprint: layout.fingerprint(),
        }
    }

    /// The configuration that this header states; `None` if its element type is unknown.
    pub(crate) fn config(&self) -> Option<ArenaConfig> {
        Some(ArenaConfig {
            geometry: Geometry {
                layers: self.layers,
                heads: self.heads,
                kv_heads: self.kv_heads,
                head_dim: self.head_dim,
                block_tokens: self.block_tokens,
                dtype: KvDtype::from_code(self.dtype)?,
            },
            capacity_tokens: self.capacity_tokens,
            max_selected_blocks: self.max_selected_blocks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ArenaConfig {
        ArenaConfig {
            geometry: Geometry {
                layers: 30,
                heads: 9,
                kv_heads: 3,
                head_dim: 64,
                block_tokens: 16,
                dtype: KvDtype::F16,
            },
            capacity_tokens: 8192,
            max_selected_blocks: 512,
        }
    }

    #[test]
    fn regions_do_not_overlap_and_the_kv_region_is_aligned() {
        let layout = Layout::new(config()).unwrap();
        assert!(layout.query_ring.end() <= layout.selection_ring.offset());
        assert!(layout.selection_ring.end() <= layout.tables_offset);
        assert!(layout.tables_offset + table_bytes(layout.slabs).unwrap() <= layout.kv_offset);
        assert_eq!(layout.kv_offset % HUGE_PAGE, 0);
        assert_eq!(layout.kv_bytes(), 8192 * 23_040);
        let kv_end = layout.kv_offset + layout.kv_bytes();
        assert_eq!(layout.total_bytes, kv_end.next_multiple_of(HUGE_PAGE));
    }

    #[test]
    fn extents_fill_a_slab_exactly() {
        let layout = Layout::new(config()).unwrap();
        let last = layout.extent_offset(29, 2) + layout.extent_bytes();
        assert_eq!(last, layout.slab_bytes());
    }

    #[test]
    fn a_different_shape_has_a_different_fingerprint() {
        let first = Layout::new(config()).unwrap();
        let mut other = config();
        other.geometry.dtype = KvDtype::Bf16;
        assert_ne!(first.fingerprint(), Layout::new(other).unwrap().fingerprint());
    }

    #[test]
    fn a_capacity_beyond_the_address_space_is_refused() {
        let absurd = ArenaConfig { capacity_tokens: u64::MAX / 2, ..config() };
        assert!(matches!(Layout::new(absurd), Err(LayoutError::TooLarge { .. })));
    }

    #[test]
    fn a_header_states_the_configuration_it_was_made_from() {
        let layout = Layout::new(config()).unwrap();
        assert_eq!(Header::of(&layout).config(), Some(config()));
    }
}
