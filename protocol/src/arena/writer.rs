//! Storing keys and values.

use std::ptr::NonNull;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use zerocopy::FromBytes;

use crate::arena::layout::Layout;
use crate::arena::segment::Mapping;
use crate::geometry::{Geometry, KvDtype};

/// The worker's way into the KV region.
#[derive(Debug)]
pub struct KvWriter {
    mapping: Mapping,
    layout: Layout,
}

impl KvWriter {
    pub(crate) const fn new(mapping: Mapping, layout: Layout) -> Self {
        Self { mapping, layout }
    }

    /// Stores key and value (each `[head_dim]`, rounded to the arena's element type) of the token at `position` of a
    /// sequence that holds `slabs`.
    ///
    /// The token must not have been published yet, or not any more after a rewind: readers rely on published tokens never
    /// changing. Returns whether
    /// every element was within the element type's range; those that were not are stored as infinite.
    ///
    /// # Panics
    /// If an argument lies beyond the arena.
    pub fn write(
        &mut self,
        slabs: &[u32],
        layer: usize,
        kv_head: usize,
        position: usize,
        key: &[f32],
        value: &[f32],
    ) -> bool {
        let geometry = *self.layout.geometry();
        let head_dim = geometry.head_dim as usize;
        assert!(key.len() == head_dim && value.len() == head_dim);
        let [key_offset, value_offset] = self.offsets(slabs, layer, kv_head, position);
        let row_bytes = head_dim * KvDtype::BYTES;
        store(self.row(key_offset, row_bytes), key, geometry.dtype);
        store(self.row(value_offset, row_bytes), value, geometry.dtype);
        let largest = largest_finite(geometry.dtype);
        key.iter().chain(value).all(|element| element.abs() <= largest)
    }

    /// Stores the keys and values (each `[tokens, kv_heads, head_dim]`) of consecutive tokens of a layer, the first at
    /// `start`, as [`Self::write`] does. Returns of how many rows an element was out of range.
    ///
    /// # Panics
    /// As [`Self::write`].
    pub fn write_chunk(
        &mut self,
        slabs: &[u32],
        layer: usize,
        start: usize,
        keys: &[f32],
        values: &[f32],
    ) -> u64 {
        let Geometry { head_dim, kv_heads, .. } = *self.layout.geometry();
        let (head_dim, kv_heads) = (head_dim as usize, kv_heads as usize);
        let rows = keys.chunks_exact(head_dim).zip(values.chunks_exact(head_dim));
        let mut overflows = 0;
        for (row, (key, value)) in rows.enumerate() {
            let (position, head) = (start + row / kv_heads, row % kv_heads);
            overflows += u64::from(!self.write(slabs, layer, head, position, key, value));
        }
        overflows
    }

    /// Repeats the keys and values of the first `tokens` tokens of a sequence in all layers until there are `stretched_to`,
    /// under the conditions of [`Self::write`].
    ///
    /// # Panics
    /// As [`Self::write`].
    pub fn stretch(&mut self, slabs: &[u32], tokens: usize, stretched_to: usize) {
        let Geometry { layers, kv_heads, .. } = *self.layout.geometry();
        for layer in 0..layers as usize {
            for head in 0..kv_heads as usize {
                for position in tokens..stretched_to {
                    self.repeat(slabs, layer, head, position % tokens, position);
                }
            }
        }
    }

    /// Stores the key and value of the token at `from` once more at `to`, under the conditions of [`Self::write`].
    ///
    /// # Panics
    /// As [`Self::write`].
    fn repeat(&mut self, slabs: &[u32], layer: usize, kv_head: usize, from: usize, to: usize) {
        let row_bytes = self.layout.geometry().head_dim as usize * KvDtype::BYTES;
        let [source, target] = [from, to].map(|at| self.offsets(slabs, layer, kv_head, at));
        for (source, target) in source.into_iter().zip(target) {
            let row = self.row(source, row_bytes).to_vec();
            self.row(target, row_bytes).copy_from_slice(&row);
        }
    }

    /// A slab's memory, as this process maps it. It begins and ends with a page.
    ///
    /// # Panics
    /// If there is no such slab.
    #[must_use]
    pub fn slab(&self, slab: u32) -> NonNull<[u8]> {
        assert!(slab < self.layout.slabs(), "slab {slab} of {}", self.layout.slabs());
        let length = self.layout.slab_bytes();
        let start = self.mapping.range(slab as usize * length, length);
        NonNull::slice_from_raw_parts(start, length)
    }

    /// Copies the bytes of consecutive blocks of one layer and KV head, the first being `block`, as many as fill `into`.
    /// All of them lie in one slab.
    ///
    /// # Panics
    /// If an argument lies beyond the arena, or the blocks beyond their slab.
    pub fn copy_blocks(
        &self,
        slabs: &[u32],
        layer: usize,
        kv_head: usize,
        block: usize,
        into: &mut [u8],
    ) {
        let (slab, offset) = self.layout.block_place(slabs, layer, kv_head, block);
        let room = self.layout.blocks_per_extent() - block % self.layout.blocks_per_extent();
        let bytes = room * self.layout.geometry().block_bytes();
        assert!(into.len() <= bytes, "{} bytes of blocks that take {bytes}", into.len());
        let start =
            self.mapping.range(slab as usize * self.layout.slab_bytes() + offset, into.len());
        // SAFETY: the range lies inside the mapping, `into` is memory of its own, and this process alone writes the region.
        unsafe { start.as_ptr().copy_to_nonoverlapping(into.as_mut_ptr(), into.len()) }
    }

    /// Where the key and the value of a token begin.
    fn offsets(&self, slabs: &[u32], layer: usize, kv_head: usize, position: usize) -> [usize; 2] {
        let geometry = self.layout.geometry();
        let block_tokens = geometry.block_tokens as usize;
        let (slab, offset) =
            self.layout.block_place(slabs, layer, kv_head, position / block_tokens);
        let block_offset = slab as usize * self.layout.slab_bytes() + offset;
        let row_bytes = geometry.head_dim as usize * KvDtype::BYTES;
        let key_offset = block_offset + position % block_tokens * row_bytes;
        [key_offset, key_offset + block_tokens * row_bytes]
    }

    fn row(&mut self, offset: usize, bytes: usize) -> &mut [u8] {
        let start = self.mapping.range(offset, bytes);
        // SAFETY: the range lies inside the mapping. The borrow of `self` makes this the only writer in this process;
        // other processes do not read a token before it is published, and never write.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), bytes) }
    }
}

fn largest_finite(dtype: KvDtype) -> f32 {
    match dtype {
        KvDtype::F16 => f16::MAX.to_f32(),
        KvDtype::Bf16 => bf16::MAX.to_f32(),
    }
}

fn store(target: &mut [u8], source: &[f32], dtype: KvDtype) {
    const ALIGNED: &str = "rows start at multiples of 32 bytes";
    match dtype {
        KvDtype::F16 => {
            <[f16]>::mut_from_bytes(target).expect(ALIGNED).convert_from_f32_slice(source)
        }
        KvDtype::Bf16 => {
            <[bf16]>::mut_from_bytes(target).expect(ALIGNED).convert_from_f32_slice(source)
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::arena::{Arena, ArenaConfig, TableOwner};
    use crate::geometry::{Geometry, KvDtype};

    fn arena(dtype: KvDtype) -> Arena {
        let geometry =
            Geometry { layers: 2, heads: 4, kv_heads: 2, head_dim: 32, block_tokens: 16, dtype };
        let config = ArenaConfig { geometry, capacity_tokens: 3000, max_selected_blocks: 8 };
        Arena::create(config).unwrap()
    }

    /// Values that both element types hold exactly, different for every token and head.
    fn number(token: usize, layer: usize, head: usize) -> f32 {
        (token % 128) as f32 + (layer * 2 + head) as f32 * 256.0
    }

    #[test]
    fn what_is_written_is_read_back_across_slabs_and_blocks() {
        for dtype in [KvDtype::F16, KvDtype::Bf16] {
            let arena = arena(dtype);
            // A second sequence first, so that the slabs of the first do not follow each other.
            let owner = TableOwner::new(arena.tables(), 1);
            owner.open(0).unwrap();
            owner.open(1).unwrap();
            owner.reserve(0, 1, |slab| populate(&arena, slab)).unwrap();
            owner.reserve(1, 1, |slab| populate(&arena, slab)).unwrap();
            owner.reserve(0, 1100, |slab| populate(&arena, slab)).unwrap();
            let mut slabs = Vec::new();
            arena.tables().read_slabs(0, &mut slabs).unwrap();
            assert_eq!(slabs, [0, 2]);
            let mut writer = arena.writer().unwrap();
            for token in 0..1100 {
                for layer in 0..2 {
                    for head in 0..2 {
                        let number = number(token, layer, head);
                        let (key, value) = ([number; 32], [-number; 32]);
                        assert!(writer.write(&slabs, layer, head, token, &key, &value));
                    }
                }
            }
            let bits = |number: f32| match dtype {
                KvDtype::F16 => half::f16::from_f32(number).to_bits(),
                KvDtype::Bf16 => half::bf16::from_f32(number).to_bits(),
            };
            for layer in 0..2 {
                for head in 0..2 {
                    let view = arena.head(&slabs, layer, head, 1100);
                    assert_eq!(view.blocks(), 69);
                    assert_eq!(view.keys(68).len(), 12 * 32);
                    for token in [0, 15, 16, 1023, 1024, 1099] {
                        let expected = bits(number(token, layer, head));
                        assert_eq!(view.key(token), [expected; 32]);
                        let row = token % 16 * 32;
                        assert_eq!(view.keys(token / 16)[row], expected);
                        let expected = bits(-number(token, layer, head));
                        assert_eq!(view.value(token), [expected; 32]);
                        assert_eq!(view.values(token / 16)[row + 31], expected);
                    }
                }
            }
        }
    }

    #[test]
    fn an_element_out_of_range_is_reported() {
        let arena = arena(KvDtype::F16);
        let mut writer = arena.writer().unwrap();
        assert!(writer.write(&[0], 0, 0, 0, &[65_504.0; 32], &[-65_504.0; 32]));
        assert!(!writer.write(&[0], 0, 0, 1, &[1.0; 32], &[65_536.0; 32]));
        assert!(!writer.write(&[0], 0, 0, 2, &[f32::NAN; 32], &[1.0; 32]));
    }

    fn populate(arena: &Arena, slab: u32) -> Result<(), crate::arena::TableError> {
        arena.populate_slab(slab).unwrap();
        Ok(())
    }
}
