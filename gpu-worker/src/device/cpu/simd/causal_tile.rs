//! Many queries against a tile of keys and values under the causal mask, a step of the online softmax.
//!
//! Query rows run along the lanes. A row is one query head of one token; rows are cut into panels of a few vectors, as
//! many as the registers take, and a panel's queries, weights and results lie transposed, `[element, row]`. Then both
//! products, scores and weighted values, are sums of a broadcast key or value element times a vector of rows: neither
//! keys nor values are ever transposed, and the softmax needs no sum across lanes.
//!
//! Products of bf16 operands would be twice as fast where the CPU has them, but put an error of 2e-3 to 6e-3 on the result,
//! ten times what storing keys and values in f16 does (3e-4 to 7e-4, 4,096 random keys); these are within 2e-6.

use super::exp2::exp2;
use super::vector::Simd;

/// Keys of a full tile. Tiles start at multiples of it, so that a row's arithmetic does not depend on what rows it is
/// computed with.
pub(in super::super) const KEY_TILE: usize = 64;

/// Operands of one step.
pub(in super::super) struct CausalTile<'a> {
    /// Elements of a key, value or query.
    pub(in super::super) head_dim: usize,
    /// Position of the first key.
    pub(in super::super) first_key: usize,
    /// Keys `[KEY_TILE, head_dim]`; those beyond the last position count for nothing, but must be finite.
    pub(in super::super) keys: &'a [f32],
    /// Values `[KEY_TILE, head_dim]`; those beyond the last position are not read.
    pub(in super::super) values: &'a [f32],
    /// Position of each row, never falling; a row sees the keys up to its own position. Whole vectors of rows.
    pub(in super::super) positions: &'a [f32],
    /// Queries, a panel `[head_dim, rows]` after the other, scaled so that `q·k` is a score in base 2.
    pub(in super::super) queries: &'a [f32],
    /// Work space `[KEY_TILE, rows of a full panel]`: scores, then weights.
    pub(in super::super) weights: &'a mut [f32],
    /// Largest score of each row so far.
    pub(in super::super) largest: &'a mut [f32],
    /// Sum of weights of each row so far.
    pub(in super::super) sums: &'a mut [f32],
    /// Sum of weighted values so far, a panel `[head_dim, rows]` after the other.
    pub(in super::super) out: &'a mut [f32],
}

/// Adds the tile to the state of every row. A panel is `P` vectors; `P · N` sums are held in registers, of all vectors with
/// `N` broadcast elements.
#[inline(always)]
pub(super) fn run<S: Simd, const P: usize, const N: usize>(s: S, tile: &mut CausalTile<'_>) {
    const { assert!(P <= 3 && KEY_TILE.is_multiple_of(N) && 16 % N == 0) };
    let rows = tile.positions.len();
    let elements = rows * tile.head_dim;
    // These lengths are what every pointer below relies on.
    assert!(rows.is_multiple_of(S::LANES) && tile.head_dim.is_multiple_of(16));
    assert!(tile.keys.len() == KEY_TILE * tile.head_dim && tile.values.len() == tile.keys.len());
    assert!(tile.queries.len() == elements && tile.out.len() == elements);
    assert!(tile.weights.len() >= KEY_TILE * P * S::LANES);
    assert!(tile.largest.len() == rows && tile.sums.len() == rows);

    for first in (0..rows).step_by(P * S::LANES) {
        match P.min((rows - first) / S::LANES) {
            1 => panel::<S, 1, N>(s, tile, first),
            2 => panel::<S, 2, N>(s, tile, first),
            _ => panel::<S, 3, N>(s, tile, first),
        }
    }
}

/// Adds the tile to the state of rows `first..first + W * LANES`.
#[inline(always)]
fn panel<S: Simd, const W: usize, const N: usize>(s: S, tile: &mut CausalTile<'_>, first: usize) {
    let rows = W * S::LANES;
    let earliest = tile.positions[first] as usize;
    let latest = tile.positions[first + rows - 1] as usize;
    if latest < tile.first_key {
        return;
    }
    let visible = KEY_TILE.min(latest - tile.first_key + 1);
    let masked = earliest < tile.first_key + visible.next_multiple_of(N) - 1;

    let largest = scores::<S, W, N>(s, tile, first, visible, masked);
    let kept = weigh::<S, W>(s, tile, first, visible, largest);
    add_values::<S, W, N>(s, tile, first, visible, kept);
}

/// Writes the panel's scores for the visible keys (and up to `N - 1` more) to `weights`; returns the largest of each row.
#[inline(always)]
fn scores<S: Simd, const W: usize, const N: usize>(
    s: S,
    tile: &mut CausalTile<'_>,
    first: usize,
    visible: usize,
    masked: bool,
) -> [S::F32; W] {
    let head_dim = tile.head_dim;
    let rows = W * S::LANES;
    let queries = tile.queries[first * head_dim..][..rows * head_dim].as_ptr();
    let first_key = s.splat(tile.first_key as f32);
    let mut positions = [first_key; W];
    let mut largest = positions;
    for vector in 0..W {
        // SAFETY: `run` checked that `positions` and `largest` hold whole vectors; `first + rows` of them are there.
        unsafe {
            let row = first + vector * S::LANES;
            positions[vector] = s.sub(s.load(tile.positions.as_ptr().add(row)), first_key);
            largest[vector] = s.load(tile.largest.as_ptr().add(row));
        }
    }
    for key in (0..visible).step_by(N) {
        // SAFETY: `key + N` is at most `KEY_TILE`, the rows of `keys`, each of `head_dim` elements with stride 1;
        // `queries` holds `head_dim` rows of `W` vectors; `weights` holds `KEY_TILE` rows of at least `W` vectors.
        unsafe {
            let keys = tile.keys.as_ptr().add(key * head_dim);
            let zero = [[s.splat(0.0); W]; N];
            let mut scores = multiply::<S, W, N>(s, zero, keys, head_dim, 1, queries, head_dim);
            for (index, scores) in scores.iter_mut().enumerate() {
                for (vector, score) in scores.iter_mut().enumerate() {
                    if masked {
                        let key = s.splat((key + index) as f32);
                        *score = s.mask_later(*score, positions[vector], key);
                    }
                    largest[vector] = s.max(*score, largest[vector]);
                    let at = (key + index) * rows + vector * S::LANES;
                    s.store(tile.weights.as_mut_ptr().add(at), *score);
                }
            }
        }
    }
    largest
}

/// Turns the panel's scores into weights against `largest`; returns what earlier sums are to be multiplied by.
#[inline(always)]
fn weigh<S: Simd, const W: usize>(
    s: S,
    tile: &mut CausalTile<'_>,
    first: usize,
    visible: usize,
    largest: [S::F32; W],
) -> [S::F32; W] {
    let rows = W * S::LANES;
    let mut sums = [s.splat(0.0); W];
    for weights in tile.weights[..visible * rows].chunks_exact_mut(rows) {
        for (vector, sum) in sums.iter_mut().enumerate() {
            // SAFETY: a chunk holds `W` vectors.
            unsafe {
                let at = weights.as_mut_ptr().add(vector * S::LANES);
                let weight = exp2(s, s.sub(s.load(at), largest[vector]));
                *sum = s.add(*sum, weight);
                s.store(at, weight);
            }
        }
    }
    let mut kept = largest;
    for (vector, kept) in kept.iter_mut().enumerate() {
        // SAFETY: `run` checked that `largest` and `sums` hold whole vectors; `first + rows` of them are there.
        unsafe {
            let row = first + vector * S::LANES;
            let before = tile.largest.as_mut_ptr().add(row);
            *kept = exp2(s, s.sub(s.load(before), largest[vector]));
            s.store(before, largest[vector]);
            let sum = tile.sums.as_mut_ptr().add(row);
            s.store(sum, s.fma(s.load(sum), *kept, sums[vector]));
        }
    }
    kept
}

/// Adds the panel's weighted values to `out`, of which `kept` remains.
#[inline(always)]
fn add_values<S: Simd, const W: usize, const N: usize>(
    s: S,
    tile: &mut CausalTile<'_>,
    first: usize,
    visible: usize,
    kept: [S::F32; W],
) {
    let head_dim = tile.head_dim;
    let rows = W * S::LANES;
    let out = tile.out[first * head_dim..][..rows * head_dim].as_mut_ptr();
    let weights = tile.weights.as_ptr();
    for element in (0..head_dim).step_by(N) {
        // SAFETY: `out` holds `head_dim` rows of `W` vectors, and `element + N` is at most `head_dim`, a multiple of 16;
        // `values` holds `visible` rows of `head_dim`, `weights` as many of `W` vectors.
        unsafe {
            let values = tile.values.as_ptr().add(element);
            let mut sums = [[s.splat(0.0); W]; N];
            for (index, sums) in sums.iter_mut().enumerate() {
                for (vector, sum) in sums.iter_mut().enumerate() {
                    let at = out.add((element + index) * rows + vector * S::LANES);
                    *sum = s.mul(s.load(at), kept[vector]);
                }
            }
            let sums = multiply::<S, W, N>(s, sums, values, 1, head_dim, weights, visible);
            for (index, sums) in sums.iter().enumerate() {
                for (vector, &sum) in sums.iter().enumerate() {
                    s.store(out.add((element + index) * rows + vector * S::LANES), sum);
                }
            }
        }
    }
}

/// `sums[n][w] += Σ_k a[n · a_row + k · a_step] · b[k][w]` over `steps` rows of `W` vectors of `b`.
///
/// # Safety
/// `a` must be readable at each of those indices, and `b` for `steps * W` vectors.
#[inline(always)]
unsafe fn multiply<S: Simd, const W: usize, const N: usize>(
    s: S,
    mut sums: [[S::F32; W]; N],
    a: *const f32,
    a_row: usize,
    a_step: usize,
    b: *const f32,
    steps: usize,
) -> [[S::F32; W]; N] {
    for step in 0..steps {
        // SAFETY: as the caller promises.
        unsafe {
            let mut vectors = [s.splat(0.0); W];
            for (index, vector) in vectors.iter_mut().enumerate() {
                *vector = s.load(b.add((step * W + index) * S::LANES));
            }
            for (index, sums) in sums.iter_mut().enumerate() {
                let element = s.splat(*a.add(index * a_row + step * a_step));
                for (index, sum) in sums.iter_mut().enumerate() {
                    *sum = s.fma(element, vectors[index], *sum);
                }
            }
        }
    }
    sums
}
