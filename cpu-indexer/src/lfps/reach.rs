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

/// Ranks that are counted together.
const PART: usize = 256;

/// Selects the `top_k` tokens with the largest ranks, of which fewer reach `cut`; among equals the latest. The first rank is that
/// of token `first`.
pub(super) fn fill(
    kernels: Kernels,
    ranks: &[u8],
    cut: u8,
    first: usize,
    top_k: usize,
    out: &mut Vec<u32>,
) {
    let too_few = |cut: u8| kernels.count_at_least(ranks, cut) < top_k;
    let weakest = first_rank(0..cut, too_few).saturating_sub(1);
    let stronger = weakest + 1;
    let equals = |ranks: &[u8]| {
        kernels.count_at_least(ranks, weakest) - kernels.count_at_least(ranks, stronger)
    };
    // Of the weakest only those from `split` on are wanted.
    let mut wanted = top_k - kernels.count_at_least(ranks, stronger);
    let mut split = ranks.len();
    for part in ranks.rchunks(PART) {
        let found = equals(part);
        if found > wanted {
            break;
        }
        (wanted, split) = (wanted - found, split - part.len());
    }
    while split > 0 && wanted > 0 {
        split -= 1;
        wanted -= usize::from(ranks[split] == weakest);
    }
    kernels.collect_at_least(&ranks[..split], stronger, number(first), out);
    kernels.collect_at_least(&ranks[split..], weakest, number(first + split), out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;

    #[test]
    fn the_largest_ranks_are_filled_in_and_of_equals_the_latest() {
        let ranks: Vec<u8> =
            (0..3000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 29) as u8).collect();
        for top_k in [1, 100, 400, 1000, 2500, 2999, 3000] {
            let mut best: Vec<usize> = (0..ranks.len()).collect();
            best.sort_by_key(|&at| std::cmp::Reverse((ranks[at], at)));
            let mut expected: Vec<u32> = best[..top_k].iter().map(|&at| number(7 + at)).collect();
            expected.sort_unstable();
            for isa in Isa::available() {
                let kernels = Kernels::of(isa).unwrap();
                let mut found = Vec::with_capacity(top_k);
                fill(kernels, &ranks, u8::MAX, 7, top_k, &mut found);
                assert_eq!(found, expected, "{top_k}");
            }
        }
    }

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
