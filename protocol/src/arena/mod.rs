//! The arena: one sealed memory file that holds all keys and values, the rings, and the block tables.

mod block_table;
pub mod layout;
mod memory;
mod segment;
mod view;
mod writer;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use zerocopy::FromBytes;

pub use block_table::{BlockTables, TableError, TableOwner};
pub use layout::{ArenaConfig, Layout, LayoutError, MAX_SEQUENCES, SLAB_TOKENS};
pub use memory::{ArenaMemory, NodePolicy, Pages};
pub use segment::Segment;
pub use view::HeadBlocks;
pub use writer::KvWriter;

use crate::geometry::Geometry;
use crate::ring::{Ring, RingIndices};
use crate::sync::AtomicU64;
use layout::Header;
use segment::{Access, Mapping};

/// An arena that cannot be made or joined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArenaError {
    /// The shape cannot be laid out.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The kernel refused.
    #[error("cannot {action} the arena of {bytes} bytes: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Size of the arena.
        bytes: usize,
        /// The kernel's error.
        source: rustix::io::Errno,
    },
    /// The kernel does not give memory of a node.
    #[error("memory of node {node} cannot be had for the arena: {source}")]
    Placement {
        /// The node.
        node: u32,
        /// The kernel's error.
        source: rustix::io::Errno,
    },
    /// The file is no arena of ours.
    #[error("the arena's {field} is {found}, but this build expects {expected}")]
    Mismatch {
        /// What differs.
        field: &'static str,
        /// What the file says.
        found: String,
        /// What was expected.
        expected: String,
    },
}

/// A joined arena: its control part to read and write, its KV region to read.
#[derive(Debug)]
pub struct Arena {
    segment: Segment,
    control: Mapping,
    kv: Mapping,
    layout: Layout,
    /// The pages that slabs are taken in.
    pages: Pages,
}

impl Arena {
    /// Makes a new arena in ordinary memory. It is taken slab by slab, when a sequence grows.
    ///
    /// # Errors
    /// [`ArenaError::Layout`] or [`ArenaError::System`].
    pub fn create(config: ArenaConfig) -> Result<Self, ArenaError> {
        Self::create_in(config, ArenaMemory::default())
    }

    /// As [`Self::create`], in memory of the caller's choice.
    ///
    /// # Errors
    /// [`ArenaError::Layout`] or [`ArenaError::System`], in particular if there is no such node or there are too few such
    /// pages.
    pub fn create_in(config: ArenaConfig, memory: ArenaMemory) -> Result<Self, ArenaError> {
        let layout = Layout::new(config)?;
        let bytes = layout.total_bytes();
        let system = |action| move |source| ArenaError::System { action, bytes, source };
        let segment = Segment::create(bytes, memory.pages).map_err(system("create"))?;
        let mut arena = Self::map(segment, layout)?;
        let take = || arena.segment.populate(0, layout.kv_offset());
        // Touching a page of which there is none left would end the process.
        let taken = match (memory.node, memory.pages) {
            (None, _) => take(),
            (Some(policy), pages) => {
                let refused = |source| ArenaError::Placement { node: policy.node(), source };
                if let Pages::Reserved(_) = pages {
                    policy.during(take).map_err(refused)?
                } else {
                    for mapping in [&arena.control, &arena.kv] {
                        mapping.set_policy(policy).map_err(refused)?;
                    }
                    take()
                }
            }
        };
        taken.map_err(system("take memory for"))?;
        arena.take_in(memory.pages);
        let header = Header::of(&layout);
        let target = arena.control.range(0, size_of::<Header>()).cast::<Header>();
        // SAFETY: the range lies inside the control mapping, is page aligned, and no peer has joined yet.
        unsafe { target.write(header) };
        Ok(arena)
    }

    /// Joins an arena that another process made, after checking magic, version, size, and layout fingerprint.
    ///
    /// # Errors
    /// [`ArenaError::Mismatch`] names what differs.
    pub fn attach(descriptor: OwnedFd) -> Result<Self, ArenaError> {
        let system = |bytes, source| ArenaError::System { action: "join", bytes, source };
        let segment = Segment::adopt(descriptor).map_err(|source| system(0, source))?;
        let bytes = segment.bytes();
        if bytes < size_of::<Header>() {
            return Err(mismatch("size", bytes, format!("at least {}", size_of::<Header>())));
        }
        let first = segment
            .map(0, size_of::<Header>(), Access::Read)
            .map_err(|source| system(bytes, source))?;
        let mut copy = [0_u8; size_of::<Header>()];
        // SAFETY: both ranges are as long as a header; the mapping is private to this function.
        unsafe {
            first
                .range(0, copy.len())
                .as_ptr()
                .copy_to_nonoverlapping(copy.as_mut_ptr(), copy.len());
        }
        let header = Header::read_from_bytes(&copy).expect("the copy is as long as a header");
        let layout = Self::check(&header, bytes, segment.granule())?;
        Self::map(segment, layout)
    }

    fn check(header: &Header, bytes: usize, granule: usize) -> Result<Layout, ArenaError> {
        if header.magic != layout::MAGIC {
            let text = |magic: [u8; 8]| magic.escape_ascii().to_string();
            return Err(mismatch("magic", text(header.magic), text(layout::MAGIC)));
        }
        if header.version != layout::VERSION {
            return Err(mismatch("version", header.version, layout::VERSION));
        }
        let config = header
            .config()
            .ok_or_else(|| mismatch("element type", header.dtype, "1 (f16) or 2 (bf16)"))?;
        let layout = Layout::new(config)?;
        // Reserved huge pages are not cut: the file may be longer by less than one of them.
        let total = layout.total_bytes();
        let fits = total.checked_next_multiple_of(granule) == Some(bytes);
        if !fits || header.total_bytes != total as u64 {
            let found = format!("{bytes} (its header says {})", header.total_bytes);
            return Err(mismatch("size", found, total));
        }
        if header.fingerprint != layout.fingerprint() {
            let hex = |number: u64| format!("{number:#018x}");
            let expected = hex(layout.fingerprint());
            return Err(mismatch("layout fingerprint", hex(header.fingerprint), expected));
        }
        Ok(layout)
    }

    fn map(segment: Segment, layout: Layout) -> Result<Self, ArenaError> {
        let bytes = layout.total_bytes();
        let system = |source| ArenaError::System { action: "map", bytes, source };
        let control = segment.map(0, layout.kv_offset(), Access::Write).map_err(system)?;
        let kv =
            segment.map(layout.kv_offset(), layout.kv_bytes(), Access::Read).map_err(system)?;
        Ok(Self { segment, control, kv, layout, pages: Pages::Small })
    }

    /// Offsets and sizes.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Shape of the KV cache.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        self.layout.geometry()
    }

    /// The block tables.
    #[must_use]
    pub fn tables(&self) -> BlockTables<'_> {
        let (offset, length) = self.layout.tables();
        let words = self.control.range(offset, length).cast::<AtomicU64>();
        // SAFETY: the range is page aligned, inside the control mapping, and only ever accessed as atomics.
        let words =
            unsafe { std::slice::from_raw_parts(words.as_ptr(), length / size_of::<AtomicU64>()) };
        BlockTables::new(words, self.layout.slabs())
    }

    /// The ring that carries the worker's records to the indexer.
    #[must_use]
    pub fn query_ring(&self) -> Ring<'_> {
        self.ring(self.layout.query_ring())
    }

    /// The ring that carries the indexer's records to the worker.
    #[must_use]
    pub fn selection_ring(&self) -> Ring<'_> {
        self.ring(self.layout.selection_ring())
    }

    fn ring(&self, ring: &crate::ring::RingLayout) -> Ring<'_> {
        let indices = self.control.range(ring.offset(), size_of::<RingIndices>());
        let slots = self.control.range(ring.slots_offset(), ring.slots_bytes());
        // SAFETY: both ranges lie inside the control mapping, are 128-byte aligned, start as zero bytes (a valid
        // empty ring), and nothing but the ring code accesses them.
        unsafe { Ring::from_raw(indices.cast::<RingIndices>().as_ref(), slots, ring) }
    }

    /// Blocks of one layer and KV head of a sequence that holds `slabs` and shows its first `tokens` tokens.
    ///
    /// # Panics
    /// If `layer`, `kv_head`, a slab, or `tokens` lies beyond the arena: callers check what comes from a peer.
    #[must_use]
    pub fn head<'a>(
        &'a self,
        slabs: &'a [u32],
        layer: usize,
        kv_head: usize,
        tokens: usize,
    ) -> HeadBlocks<'a> {
        HeadBlocks::new(&self.kv, &self.layout, slabs, layer, kv_head, tokens)
    }

    /// A second mapping of the KV region through which the worker stores keys and values.
    ///
    /// # Errors
    /// [`ArenaError::System`].
    pub fn writer(&self) -> Result<KvWriter, ArenaError> {
        let (offset, length) = (self.layout.kv_offset(), self.layout.kv_bytes());
        let mapping = self.segment.map(offset, length, Access::Write).map_err(|source| {
            ArenaError::System { action: "map", bytes: self.layout.total_bytes(), source }
        })?;
        Ok(KvWriter::new(mapping, self.layout))
    }

    /// Has slabs taken from now on in such pages, as in an arena that was made with them.
    pub const fn take_in(&mut self, pages: Pages) {
        self.pages = pages;
    }

    /// Takes memory for a slab: from the arena's node, or else from the calling thread's.
    ///
    /// # Errors
    /// [`ArenaError::System`], in particular when the machine or its control group has no memory left.
    pub fn populate_slab(&self, slab: u32) -> Result<(), ArenaError> {
        let (offset, length) = self.slab_range(slab);
        let joined = if self.pages == Pages::Huge { self.join(offset, length) } else { Ok(()) };
        // What is in huge pages by now has its memory; the rest is taken in small ones.
        let taken = joined.and_then(|()| self.segment.populate(offset, length));
        taken.map_err(|source| ArenaError::System {
            action: "take memory for",
            bytes: self.layout.total_bytes(),
            source,
        })
    }

    /// Takes the huge pages that `length` bytes from `offset` on lie in, as far as the kernel gives them. Those shared with
    /// neighbours are taken whole.
    ///
    /// One small page of each is taken first and then joined with the nothing around it: small pages that have been
    /// written and mapped already would be copied and unmapped one by one, which takes thirty times as long.
    fn join(&self, offset: usize, length: usize) -> rustix::io::Result<()> {
        let start = offset / layout::HUGE_PAGE * layout::HUGE_PAGE;
        let end = (offset + length).next_multiple_of(layout::HUGE_PAGE);
        for first in (start..end).step_by(layout::HUGE_PAGE) {
            self.segment.populate(first, layout::PAGE)?;
        }
        self.segment.map(start, end - start, Access::Write)?.join_pages();
        Ok(())
    }

    /// Gives a slab's memory back to the system.
    ///
    /// # Errors
    /// [`ArenaError::System`].
    pub fn release_slab(&self, slab: u32) -> Result<(), ArenaError> {
        let (offset, length) = self.slab_range(slab);
        self.segment.release(offset, length).map_err(|source| ArenaError::System {
            action: "give back memory of",
            bytes: self.layout.total_bytes(),
            source,
        })
    }

    fn slab_range(&self, slab: u32) -> (usize, usize) {
        assert!(slab < self.layout.slabs(), "slab {slab} of {}", self.layout.slabs());
        let length = self.layout.slab_bytes();
        (self.layout.kv_offset() + slab as usize * length, length)
    }
}

impl AsFd for Arena {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.segment.as_fd()
    }
}

fn mismatch(
    field: &'static str,
    found: impl std::fmt::Display,
    expected: impl std::fmt::Display,
) -> ArenaError {
    ArenaError::Mismatch { field, found: found.to_string(), expected: expected.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::KvDtype;

    fn config() -> ArenaConfig {
        let geometry = Geometry {
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 32,
            block_tokens: 16,
            dtype: KvDtype::F16,
        };
        ArenaConfig { geometry, capacity_tokens: 2048, max_selected_blocks: 8 }
    }

    fn descriptor(arena: &Arena) -> OwnedFd {
        arena.as_fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn a_joiner_sees_the_same_arena() {
        let arena = Arena::create(config()).unwrap();
        let joined = Arena::attach(descriptor(&arena)).unwrap();
        assert_eq!(joined.layout(), arena.layout());
        TableOwner::new(arena.tables(), 1).open(5).unwrap();
        joined.tables().publish(5, 77).unwrap();
        assert_eq!(arena.tables().published(5), Ok(77));
    }

    /// Each header field is corrupted in turn; the joiner must name a mismatch or refuse the shape, and map nothing.
    #[test]
    fn a_corrupt_header_is_refused() {
        for byte in 0..size_of::<Header>() {
            let arena = Arena::create(config()).unwrap();
            let target = arena.control.range(byte, 1).as_ptr();
            // SAFETY: the byte lies in the control mapping, which nobody else uses here.
            unsafe { target.write(target.read() ^ 0x55) };
            let joined = Arena::attach(descriptor(&arena));
            assert!(joined.is_err(), "byte {byte} may be anything");
        }
    }

    #[test]
    fn a_file_that_is_no_arena_is_refused() {
        let empty = Segment::create(16, Pages::Small).unwrap();
        let joined = Arena::attach(empty.as_fd().try_clone_to_owned().unwrap());
        assert!(matches!(joined, Err(ArenaError::Mismatch { field: "size", .. })));
        let zeros = Segment::create(8192, Pages::Small).unwrap();
        let joined = Arena::attach(zeros.as_fd().try_clone_to_owned().unwrap());
        assert!(matches!(joined, Err(ArenaError::Mismatch { field: "magic", .. })));
    }

    #[test]
    fn slabs_in_huge_pages_begin_as_zeros_and_keep_what_their_neighbours_hold() {
        let mut arena = Arena::create(config()).unwrap();
        arena.take_in(Pages::Huge);
        arena.populate_slab(0).unwrap();
        let mut writer = arena.writer().unwrap();
        assert!(writer.write(&[0], 1, 1, 1023, &[3.0; 32], &[4.0; 32]));
        arena.populate_slab(1).unwrap();
        let bits = half::f16::from_f32(3.0).to_bits();
        assert_eq!(arena.head(&[0], 1, 1, 1024).key(1023), [bits; 32]);
        assert_eq!(arena.head(&[1], 0, 0, 1).key(0), [0; 32]);
    }

    /// Most machines have no huge pages to spare: then the arena is refused, and nothing is touched that is not there.
    #[test]
    fn an_arena_in_reserved_huge_pages_works_or_is_refused() {
        for size in [2 << 20, 1 << 30] {
            let memory = ArenaMemory { node: None, pages: Pages::Reserved(size) };
            let Ok(arena) = Arena::create_in(config(), memory) else { continue };
            let joined = Arena::attach(descriptor(&arena)).unwrap();
            assert_eq!(joined.layout(), arena.layout());
            if joined.populate_slab(1).is_err() {
                continue;
            }
            let mut writer = arena.writer().unwrap();
            assert!(writer.write(&[1], 1, 1, 1023, &[3.0; 32], &[4.0; 32]));
            let bits = half::f16::from_f32(3.0).to_bits();
            assert_eq!(joined.head(&[1], 1, 1, 1024).key(1023), [bits; 32]);
            joined.release_slab(1).unwrap();
        }
    }

    #[test]
    fn both_rings_carry_records_between_two_attachments() {
        let arena = Arena::create(config()).unwrap();
        let joined = Arena::attach(descriptor(&arena)).unwrap();
        let patience = crate::ring::Patience::default();
        for (from, to) in [
            (arena.query_ring(), joined.query_ring()),
            (joined.selection_ring(), arena.selection_ring()),
        ] {
            let (mut sender, mut receiver) = (from.producer(), to.consumer());
            assert!(sender.send(&[b"keys", b" and ", b"values"], patience).unwrap());
            let record = receiver.receive(patience).unwrap();
            assert_eq!(record, Some(&b"keys and values"[..]));
        }
    }
}
