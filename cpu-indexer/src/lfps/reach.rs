//! Which ranks a wanted number of keys reaches.

use std::ops::Range;

use crate::kernels::Kernels;
use crate::selection::number;

/// The smallest rank in `ranks` for which `holds`, which must hold for all above it; the end if there is none.
fn first_rank(ranks: Range<u8>, holds: impl Fn(u8) -> bool) -> u8 {
    let (mut low, mut high) = (ranks.start, ranks.end.max(ranks.start));
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// The smallest rank for which `holds`, which must hold for all above it, or the largest rank; quick if it is near
/// `expected`.
pub(super) fn first_rank_from(expected: u8, holds: impl Fn(u8) -> bool) -> u8 {
    let mut width = 4_u8;
    if holds(expected) {
        let mut high = expected;
        while high > 0 {
            let low = high.saturating_sub(width);
            if !holds(low) {
                return first_rank(low + 1..high, holds);
            }
            (high, width) = (low, width.saturating_mul(2));
        }
        return 0;
    }
    let mut low = expected;
    while low < u8::MAX {
        let high = low.saturating_add(width);
        if high == u8::MAX || holds(high) {
            return first_rank(low.saturating_add(1)..high, holds);
        }
        (low, width) = (high, width.saturating_mul(2));
    }
    u8::MAX
}

/// Selects the `top_k` tokens with the largest ranks, of which fewer reach `cut`; among equals the latest. `reaching`
/// is memory to work in.
pub(super) fn fill(
    kernels: Kernels,
    ranks: &[u8],
    cut: u8,
    first: usize,
    top_k: usize,
    reaching: &mut Vec<u32>,
    out: &mut Vec<u32>,
) {
    let too_few = |cut: u8| kernels.count_at_least(ranks, cut) < top_k;
    let weakest = first_rank(0..cut, too_few).saturating_sub(1);
    reaching.clear();
    kernels.collect_at_least(ranks, weakest, number(first), reaching);
    let mut surplus = reaching.len().saturating_sub(top_k);
    out.extend(reaching.iter().filter(|&&token| {
        let spare = surplus > 0 && ranks[token as usize - first] == weakest;
        surplus -= usize::from(spare);
        !spare
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rank_is_found_from_anywhere() {
        for first in 0..=u8::MAX {
            for expected in [0, 1, 17, 128, 254, 255] {
                let found = first_rank_from(expected, |rank| rank >= first);
                assert_eq!(found, first, "from {expected}");
            }
        }
        assert_eq!(first_rank_from(9, |_| false), u8::MAX);
        assert_eq!(first_rank(3..200, |rank| rank >= 90), 90);
    }
}
