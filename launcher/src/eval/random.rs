//! Random choices that a seed fixes.

use rand_pcg::Pcg64;
use rand_pcg::rand_core::{Rng, SeedableRng};

/// A generator whose choices depend on its seed and its purpose alone.
#[derive(Debug, Clone)]
pub(super) struct Random(Pcg64);

impl Random {
    /// The generator of `seed` for one purpose among many: different purposes choose independently.
    pub(super) fn new(seed: u64, purpose: &[&str]) -> Self {
        // FNV-1a, with a byte between the parts that no text contains.
        let bytes = purpose.iter().flat_map(|part| part.bytes().chain([0xff]));
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(Pcg64::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ hash))
    }

    /// A number below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let product = u128::from(self.0.next_u64()) * bound as u128;
        usize::try_from(product >> 64).expect("less than the bound")
    }

    /// A number of `range`, its end excluded.
    pub(super) fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        let width = usize::try_from(range.end - range.start).expect("ranges are short");
        range.start + self.below(width) as u64
    }

    /// 128 random bits.
    pub(super) fn bits(&mut self) -> u128 {
        u128::from(self.0.next_u64()) << 64 | u128::from(self.0.next_u64())
    }

    /// One of `items`, of which there is at least one.
    pub(super) fn choose<'t, T>(&mut self, items: &'t [T]) -> &'t T {
        &items[self.below(items.len())]
    }

    /// Puts `items` into a random order.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// `count` different numbers below `bound`, in the order drawn; all of them if there are fewer.
    pub(super) fn sample(&mut self, bound: usize, count: usize) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..bound).collect();
        let count = count.min(bound);
        for at in 0..count {
            numbers.swap(at, at + self.below(bound - at));
        }
        numbers.truncate(count);
        numbers
    }

    /// As [`Self::sample`], ascending.
    pub(super) fn sample_sorted(&mut self, bound: usize, count: usize) -> Vec<usize> {
        let mut numbers = self.sample(bound, count);
        numbers.sort_unstable();
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_and_purpose_decide() {
        let draw = |seed, purpose: &[&str]| Random::new(seed, purpose).bits();
        assert_eq!(draw(1, &["vt", "3"]), draw(1, &["vt", "3"]));
        assert_ne!(draw(1, &["vt", "3"]), draw(2, &["vt", "3"]));
        assert_ne!(draw(1, &["vt", "3"]), draw(1, &["vt3"]));
    }

    #[test]
    fn samples_are_distinct_and_in_range() {
        let mut random = Random::new(7, &["samples"]);
        for count in [0, 1, 5, 40, 99] {
            let mut numbers = random.sample(40, count);
            assert_eq!(numbers.len(), count.min(40));
            assert!(numbers.iter().all(|&number| number < 40));
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), count.min(40));
        }
    }

    #[test]
    fn every_order_comes_up() {
        let mut random = Random::new(0, &["orders"]);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..200 {
            let mut items = [0, 1, 2];
            random.shuffle(&mut items);
            seen.insert(items);
        }
        assert_eq!(seen.len(), 6);
    }
}
