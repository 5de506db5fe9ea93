//! Keys or values of every layer, as a trace lays them out.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::attention::round;

/// Rows `[slots, kv_heads, capacity, head_dim]`, where a slot is a layer's place.
#[derive(Debug)]
pub(super) struct Cache {
    kv_heads: usize,
    capacity: usize,
    head_dim: usize,
    elements: Vec<f16>,
}

impl Cache {
    /// Room for `capacity` tokens.
    pub(super) fn new(slots: usize, kv_heads: usize, capacity: usize, head_dim: usize) -> Self {
        let elements = vec![f16::ZERO; slots * kv_heads * capacity * head_dim];
        Self { kv_heads, capacity, head_dim, elements }
    }

    /// Stores rows `[tokens, kv_heads, head_dim]` in `slot`, from the position `start` on. Returns whether all were in
    /// range.
    pub(super) fn store(&mut self, slot: usize, start: usize, rows: &[f32]) -> bool {
        let Self { kv_heads, capacity, head_dim, .. } = *self;
        rows.chunks_exact(head_dim).enumerate().all(|(row, elements)| {
            let (position, head) = (start + row / kv_heads, row % kv_heads);
            let at = ((slot * kv_heads + head) * capacity + position) * head_dim;
            round(elements, &mut self.elements[at..at + head_dim])
        })
    }

    /// The first `tokens` rows of one head: `[tokens, head_dim]`.
    pub(super) fn head(&self, slot: usize, kv_head: usize, tokens: usize) -> &[u16] {
        let first = (slot * self.kv_heads + kv_head) * self.capacity * self.head_dim;
        self.elements[first..first + tokens * self.head_dim].reinterpret_cast()
    }

    /// The first `tokens` rows of each head of the first `slots` slots: `[slots, kv_heads, tokens, head_dim]`.
    pub(super) fn into_prefix(self, slots: usize, tokens: usize) -> Vec<f16> {
        let Self { kv_heads, capacity, head_dim, mut elements } = self;
        let (from, to) = (capacity * head_dim, tokens * head_dim);
        let heads = slots * kv_heads;
        for head in 0..heads {
            elements.copy_within(head * from..head * from + to, head * to);
        }
        elements.truncate(heads * to);
        elements.shrink_to_fit();
        elements
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_the_first_rows_of_the_first_slots() {
        let mut cache = Cache::new(3, 2, 5, 2);
        for slot in 0..3 {
            for position in 0..5 {
                let head = |head: usize| (100 * slot + 10 * head + position) as f32;
                let rows = [head(0), -head(0), head(1), -head(1)];
                assert!(cache.store(slot, position, &rows));
            }
        }
        let expected: Vec<f32> = [0, 1, 2, 10, 11, 12, 100, 101, 102, 110, 111, 112]
            .iter()
            .flat_map(|&number| [number as f32, -(number as f32)])
            .collect();
        let bits = |head| cache.head(1, head, 3).to_vec();
        let heads = [bits(0), bits(1)].concat();
        let prefix = cache.into_prefix(2, 3);
        assert_eq!(prefix.iter().map(|element| element.to_f32()).collect::<Vec<_>>(), expected);
        assert_eq!(prefix[12..].reinterpret_cast(), heads);
    }

    #[test]
    fn what_16_bits_cannot_hold_is_reported() {
        let mut cache = Cache::new(1, 1, 2, 2);
        assert!(cache.store(0, 0, &[65_504.0, -65_504.0]));
        assert!(!cache.store(0, 1, &[1.0, 65_536.0]));
    }
}
