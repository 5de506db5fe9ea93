//! A pool that holds the blocks of some heads in random slots, and NaNs elsewhere.

use rand_pcg::{
    Pcg64,
    rand_core::{Rng, SeedableRng},
};

use super::reference::{narrow, widen};
use crate::launch::Element;

/// A number between -1 and 1.
pub(super) fn random(generator: &mut Pcg64) -> f32 {
    generator.next_u32() as f32 / u32::MAX as f32 * 2.0 - 1.0
}

/// The same numbers in every run.
pub(super) fn generator(seed: u32) -> Pcg64 {
    Pcg64::seed_from_u64(seed.into())
}

/// 0..count, shuffled.
pub(super) fn permutation(generator: &mut Pcg64, count: usize) -> Vec<u32> {
    let mut items: Vec<u32> = (0..count as u32).collect();
    for last in (1..count).rev() {
        items.swap(last, generator.next_u32() as usize % (last + 1));
    }
    items
}

/// Slots so high that the offsets of their blocks exceed 32 bits, whatever they are counted in.
pub(super) const HIGH_SLOTS: u32 = 1 << 27;

/// What can be cached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) element: Element,
    pub(super) dim: usize,
    pub(super) block_tokens: usize,
}

impl Layout {
    pub(super) fn block_elements(self) -> usize {
        2 * self.block_tokens * self.dim
    }

    /// The address to give for a pool whose slot `first` lies at `address`.
    pub(super) fn base(self, address: u64, first: u32) -> u64 {
        address.wrapping_sub(u64::from(first) * self.block_elements() as u64 * 2)
    }
}

/// One KV head's keys and values, and where they are cached.
pub(super) struct Head {
    /// [tokens, dim]
    keys: Vec<f32>,
    /// [tokens, dim]
    values: Vec<f32>,
    dim: usize,
    /// Of its blocks, in the text's order.
    pub(super) slots: Vec<u32>,
}

impl Head {
    pub(super) fn tokens(&self) -> usize {
        self.keys.len() / self.dim
    }

    /// The key and the value of a token.
    pub(super) fn row(&self, token: usize) -> (&[f32], &[f32]) {
        let range = token * self.dim..(token + 1) * self.dim;
        (&self.keys[range.clone()], &self.values[range])
    }
}

/// Heads of given lengths in one pool.
pub(super) struct Cache {
    pub(super) heads: Vec<Head>,
    /// Bits of all slots.
    pub(super) pool: Vec<u16>,
}

impl Cache {
    pub(super) fn new(layout: Layout, tokens: &[usize], generator: &mut Pcg64) -> Self {
        let blocks: usize = tokens.iter().map(|tokens| tokens.div_ceil(layout.block_tokens)).sum();
        let mut free = permutation(generator, blocks + 3);
        // Any NaN will do.
        let mut pool = vec![0x7fff; free.len() * layout.block_elements()];
        let mut heads = Vec::new();
        for &tokens in tokens {
            let slots = free.split_off(free.len() - tokens.div_ceil(layout.block_tokens));
            let mut sides = [Vec::new(), Vec::new()];
            for token in 0..tokens {
                let slot = slots[token / layout.block_tokens] as usize;
                for (side, numbers) in sides.iter_mut().enumerate() {
                    let row = side * layout.block_tokens + token % layout.block_tokens;
                    let at = slot * layout.block_elements() + row * layout.dim;
                    for element in &mut pool[at..at + layout.dim] {
                        *element = narrow(layout.element, random(generator) * 2.0);
                        numbers.push(widen(layout.element, *element));
                    }
                }
            }
            let [keys, values] = sides;
            heads.push(Head { keys, values, slots, dim: layout.dim });
        }
        Self { heads, pool }
    }

    /// Slot lists [heads, stride] of a range of each head's blocks, counted from `first_slot`; what lies beyond a list is
    /// no slot. With the lists' lengths.
    pub(super) fn lists(
        &self,
        ranges: &[std::ops::Range<usize>],
        first_slot: u32,
    ) -> (Vec<u32>, Vec<u32>) {
        let stride = Self::stride(ranges);
        let mut slots = vec![u32::MAX - 1; self.heads.len() * stride];
        for (row, (head, range)) in self.heads.iter().zip(ranges).enumerate() {
            for (place, &slot) in slots[row * stride..].iter_mut().zip(&head.slots[range.clone()]) {
                *place = first_slot + slot;
            }
        }
        (slots, ranges.iter().map(|range| range.len() as u32).collect())
    }

    /// The stride of such lists.
    pub(super) fn stride(ranges: &[std::ops::Range<usize>]) -> usize {
        ranges.iter().map(|range| range.len()).max().unwrap_or(0) + 1
    }
}
