//! The scan of codes, written once for vectors of 32 and of 64 bytes.

#![expect(
    clippy::needless_range_loop,
    reason = "loops over registers read as what they compile to"
)]

use super::{CODE_GROUP, CODE_WORDS, fetch_near, scalar};

/// Heads whose tables are looked up together: as many as the registers have room for.
const HEADS: usize = 4;
/// Vectors of keys that are ranked together, so that each table is loaded once for both.
const VECTORS: usize = 2;
/// Bytes of codes between those that are looked up and those that are fetched meanwhile, line by line: the processor's own
/// prefetcher stops at each page.
const CODES_AHEAD: usize = 8192;

/// A token that proves that the processor has an instruction set, and the operations on its vectors of bytes.
///
/// Everything is `#[inline(always)]`, so that it is compiled with the features of the kernel it ends up in.
pub(super) trait Bytes: Copy {
    /// Bytes in a vector: 32 or 64.
    const LANES: usize;
    /// A vector; none exists without a token.
    type Vector: Copy;

    /// All lanes `byte`.
    fn splat(self, byte: u8) -> Self::Vector;
    /// `a & b`.
    fn and(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Pairs of bytes shifted to the right by `BITS`, as numbers of 16 bits.
    fn shift<const BITS: u32>(self, a: Self::Vector) -> Self::Vector;
    /// The bytes of `table`, 16 in each part of 16 lanes, that `index` names.
    fn look_up(self, table: Self::Vector, index: Self::Vector) -> Self::Vector;
    /// `a + b`, at most 255.
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a - b`, at least 0.
    fn subtract(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The larger of each pair of lanes.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The smaller of each pair of lanes.
    fn min(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `table` in each part of 16 lanes.
    fn repeat(self, table: &[u8; CODE_WORDS]) -> Self::Vector;

    /// Loads `LANES` bytes.
    ///
    /// # Safety
    /// `from` must be valid for reading `LANES` bytes.
    unsafe fn load(self, from: *const u8) -> Self::Vector;
    /// Stores `LANES` bytes.
    ///
    /// # Safety
    /// `to` must be valid for writing `LANES` bytes.
    unsafe fn store(self, to: *mut u8, a: Self::Vector);
}

/// Methods of [`Bytes`] that are one expression of intrinsics.
macro_rules! operations {
    ($(fn $name:ident($($argument:ident: $kind:ty),*) -> $result:ty = $body:expr;)*) => {
        $(#[inline(always)]
        fn $name(self, $($argument: $kind),*) -> $result {
            // SAFETY: the token proves that the processor has these instructions; references are valid for what is read.
            unsafe { $body }
        })*
    };
}
pub(super) use operations;

/// See [`super::Kernels::scan_codes`].
#[inline(always)]
pub(super) fn scan<S: Bytes>(
    s: S,
    codes: &[u8],
    tables: &[[u8; CODE_WORDS]],
    best: &[u8],
    join: &[u8; 16],
    ranks: &mut [u8],
) {
    let subspaces = tables.len() / best.len();
    let keys = VECTORS * S::LANES;
    let bytes = keys * subspaces / 2;
    let mut codes = codes.chunks_exact(bytes);
    let mut ranks = ranks.chunks_exact_mut(keys);
    for (codes, ranks) in codes.by_ref().zip(ranks.by_ref()) {
        for first in (0..best.len()).step_by(HEADS) {
            let tables = &tables[first * subspaces..];
            match best.len() - first {
                1 => rank::<S, 1>(s, codes, tables, &best[first..], join, ranks, first > 0),
                2 => rank::<S, 2>(s, codes, tables, &best[first..], join, ranks, first > 0),
                3 => rank::<S, 3>(s, codes, tables, &best[first..], join, ranks, first > 0),
                _ => rank::<S, 4>(s, codes, tables, &best[first..], join, ranks, first > 0),
            }
        }
    }
    scalar::scan_codes(codes.remainder(), tables, best, join, ranks.into_remainder());
}

/// Ranks [`VECTORS`] vectors of keys for `H` heads; joined to the ranks that are there already if `join_first`.
#[inline(always)]
fn rank<S: Bytes, const H: usize>(
    s: S,
    codes: &[u8],
    tables: &[[u8; CODE_WORDS]],
    best: &[u8],
    join: &[u8; 16],
    ranks: &mut [u8],
    join_first: bool,
) {
    const { assert!(CODE_GROUP.is_multiple_of(S::LANES)) };
    let subspaces = 2 * codes.len() / (VECTORS * S::LANES);
    let group_bytes = subspaces / 2 * CODE_GROUP;
    assert!(tables.len() >= H * subspaces && ranks.len() == VECTORS * S::LANES);
    assert!(codes.len() == subspaces / 2 * ranks.len() && codes.len().is_multiple_of(group_bytes));
    let ahead = codes.as_ptr().wrapping_add(CODES_AHEAD);
    let nibble = s.splat(15);
    let mut distances = [[s.splat(0); VECTORS]; H];
    // A pointer for each head leaves the loop no addresses to compute.
    let mut of_head = [tables.as_ptr(); H];
    for head in 0..H {
        of_head[head] = tables[head * subspaces..].as_ptr();
    }
    for pair in 0..subspaces / 2 {
        for line in 0..VECTORS * S::LANES / 64 {
            fetch_near(ahead.wrapping_add((pair * VECTORS * S::LANES / 64 + line) * 64));
        }
        let mut codes_of = [[nibble; VECTORS]; 2];
        for vector in 0..VECTORS {
            let key = vector * S::LANES;
            let at = key / CODE_GROUP * group_bytes + pair * CODE_GROUP + key % CODE_GROUP;
            // SAFETY: there are whole groups of `subspaces / 2` pairs, each with a byte for each of its 64 keys; a vector lies
            // within one group.
            let words = unsafe { s.load(codes.as_ptr().add(at)) };
            codes_of[0][vector] = s.and(words, nibble);
            codes_of[1][vector] = s.and(s.shift::<4>(words), nibble);
        }
        for head in 0..H {
            for half in 0..2 {
                // SAFETY: `tables` holds `subspaces` tables for each of `H` heads, as was checked; `2 * pair + half` is below that.
                let table = unsafe { &*of_head[head].add(2 * pair + half) };
                let table = s.repeat(table);
                for vector in 0..VECTORS {
                    let distance = &mut distances[head][vector];
                    *distance = s.add(*distance, s.look_up(table, codes_of[half][vector]));
                }
            }
        }
    }
    let join = s.repeat(join);
    for (vector, ranks) in ranks.chunks_exact_mut(S::LANES).enumerate() {
        // SAFETY: the chunk has `LANES` bytes.
        let mut rank = unsafe { s.load(ranks.as_ptr()) };
        for head in 0..H {
            let own = s.subtract(s.splat(best[head]), distances[head][vector]);
            rank = if head == 0 && !join_first { own } else { joined(s, rank, own, join) };
        }
        // SAFETY: the chunk has `LANES` bytes.
        unsafe { s.store(ranks.as_mut_ptr(), rank) };
    }
}

/// The ranks that two heads have together.
#[inline(always)]
fn joined<S: Bytes>(s: S, a: S::Vector, b: S::Vector, join: S::Vector) -> S::Vector {
    let larger = s.max(a, b);
    let difference = s.subtract(larger, s.min(a, b));
    let quarter = s.and(s.shift::<2>(difference), s.splat(63));
    s.add(larger, s.look_up(join, s.min(quarter, s.splat(15))))
}
