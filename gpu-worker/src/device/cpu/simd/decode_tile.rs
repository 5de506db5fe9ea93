//! One token's queries against a tile of keys and values, a step of the online softmax.

use hindsight_protocol::geometry::KvDtype;

use super::super::shape::Block;
use super::exp2::exp2;
use super::vector::{Bf16, F16, KvFormat, Simd};

/// The most tokens of a tile, whose keys are all read before its values: enough to make little of the softmax in between.
pub(in super::super) const TILE_TOKENS: usize = 64;

/// Tokens whose scores are computed side by side.
const ROWS: usize = 4;

/// Elements of a KV block in a cache line.
const LINE: usize = 32;

/// Operands of one step; a row is one query head.
pub(in super::super) struct DecodeTile<'a> {
    /// Elements of a key, value or query.
    pub(in super::super) head_dim: usize,
    /// Format of the blocks.
    pub(in super::super) dtype: KvDtype,
    /// Queries `[group, head_dim]`, scaled so that `q·k` is a score in base 2.
    pub(in super::super) queries: &'a [f32],
    /// The tile: blocks of at most [`TILE_TOKENS`] tokens together, or none, to ask for `ahead` alone.
    pub(in super::super) blocks: &'a [Block<'a>],
    /// The blocks of the next tile, to be brought nearer meanwhile.
    pub(in super::super) ahead: &'a [Block<'a>],
    /// Work space `[group, TILE_TOKENS]`: scores, then weights.
    pub(in super::super) weights: &'a mut [f32],
    /// Largest score so far, `[group]`.
    pub(in super::super) largest: &'a mut [f32],
    /// Sum of weights so far, `[group]`.
    pub(in super::super) sums: &'a mut [f32],
    /// Sum of weighted values so far, `[group, head_dim]`.
    pub(in super::super) out: &'a mut [f32],
}

/// The next tile's memory, asked for line by line, in the order in which it lies, while this tile is computed: requests that come
/// in bursts are dropped once the processor has some dozens of them under way.
///
/// A tile reads all its keys before its values, which is not the order of memory: the hardware's prefetcher loses track
/// of it, as it does where blocks are scattered.
struct Ahead<'a> {
    blocks: std::slice::Iter<'a, Block<'a>>,
    /// The next line of the keys or values in progress, and how many are left of them.
    line: *const u16,
    lines: usize,
    /// The values that follow them.
    values: &'a [u16],
}

impl<'a> Ahead<'a> {
    #[inline(always)]
    fn new(blocks: &'a [Block<'a>]) -> Self {
        Self { blocks: blocks.iter(), line: std::ptr::null(), lines: 0, values: &[] }
    }

    /// Asks for the next `lines`, or as many as are left of a block's keys or values; says whether there were any.
    #[inline(always)]
    fn advance<S: Simd>(&mut self, s: S, lines: usize) -> bool {
        if self.lines == 0 {
            let mut next = std::mem::take(&mut self.values);
            if next.is_empty() {
                let Some(block) = self.blocks.next() else { return false };
                (next, self.values) = (block.keys, block.values);
            }
            (self.line, self.lines) = (next.as_ptr(), next.len().div_ceil(LINE));
        }
        let now = lines.min(self.lines);
        for _ in 0..now {
            s.prefetch(self.line);
            self.line = self.line.wrapping_add(LINE);
        }
        self.lines -= now;
        true
    }
}

/// Adds the tile to the state of every row. `HEADS` rows and `CHUNKS` vectors of a value are held in registers at a time.
#[inline(always)]
pub(super) fn run<S: Simd, const HEADS: usize, const CHUNKS: usize>(
    s: S,
    tile: &mut DecodeTile<'_>,
) {
    match tile.dtype {
        KvDtype::F16 => run_format::<S, F16, HEADS, CHUNKS>(s, tile),
        KvDtype::Bf16 => run_format::<S, Bf16, HEADS, CHUNKS>(s, tile),
    }
}

#[inline(always)]
fn run_format<S: Simd, F: KvFormat, const HEADS: usize, const CHUNKS: usize>(
    s: S,
    tile: &mut DecodeTile<'_>,
) {
    const { assert!(HEADS <= 4) };
    let group = tile.largest.len();
    let head_dim = tile.head_dim;
    let mut tokens = 0;
    for block in tile.blocks {
        tokens += block.tokens(head_dim);
    }
    // These lengths are what every pointer below relies on.
    assert!(head_dim.is_multiple_of(16) && tokens <= TILE_TOKENS);
    assert!(tile.queries.len() == group * head_dim && tile.out.len() == group * head_dim);
    assert!(tile.weights.len() == group * TILE_TOKENS && tile.sums.len() == group);

    let mut ahead = Ahead::new(tile.ahead);
    for first in (0..group).step_by(HEADS) {
        match HEADS.min(group - first) {
            1 => score::<S, F, 1>(s, tile, first, &mut ahead),
            2 => score::<S, F, 2>(s, tile, first, &mut ahead),
            3 => score::<S, F, 3>(s, tile, first, &mut ahead),
            _ => score::<S, F, 4>(s, tile, first, &mut ahead),
        }
    }
    for head in 0..group {
        weigh(s, tile, head, tokens);
    }
    for first in (0..group).step_by(HEADS) {
        match HEADS.min(group - first) {
            1 => add_values::<S, F, 1, CHUNKS>(s, tile, first, &mut ahead),
            2 => add_values::<S, F, 2, CHUNKS>(s, tile, first, &mut ahead),
            3 => add_values::<S, F, 3, CHUNKS>(s, tile, first, &mut ahead),
            _ => add_values::<S, F, 4, CHUNKS>(s, tile, first, &mut ahead),
        }
    }
    while ahead.advance(s, ROWS * head_dim / LINE) {}
}

/// Writes the scores of heads `first..first + H` to `weights`.
#[inline(always)]
fn score<S: Simd, F: KvFormat, const H: usize>(
    s: S,
    tile: &mut DecodeTile<'_>,
    first: usize,
    ahead: &mut Ahead<'_>,
) {
    let head_dim = tile.head_dim;
    let queries = tile.queries[first * head_dim..][..H * head_dim].as_ptr();
    let scores = tile.weights[first * TILE_TOKENS..][..H * TILE_TOKENS].as_mut_ptr();
    let mut column = 0;
    for block in tile.blocks {
        let tokens = block.keys.len() / head_dim;
        let mut token = 0;
        while token + ROWS <= tokens {
            // SAFETY: the block holds keys `token..token + ROWS` of `head_dim` elements, a multiple of `LANES`, the
            // queries `H` rows of as many, and `column + ROWS` is at most the tile's tokens, at most `TILE_TOKENS`.
            unsafe {
                let keys = block.keys.as_ptr().add(token * head_dim);
                let mut sums = [[s.splat(0.0); ROWS]; H];
                for offset in (0..head_dim).step_by(S::LANES) {
                    if first == 0 {
                        ahead.advance(s, ROWS * S::LANES / LINE);
                    }
                    let mut key = [s.splat(0.0); ROWS];
                    for (row, key) in key.iter_mut().enumerate() {
                        *key = F::load(s, keys.add(row * head_dim + offset));
                    }
                    for (head, sums) in sums.iter_mut().enumerate() {
                        let query = s.load(queries.add(head * head_dim + offset));
                        for (row, sum) in sums.iter_mut().enumerate() {
                            *sum = s.fma(key[row], query, *sum);
                        }
                    }
                }
                for (head, &sums) in sums.iter().enumerate() {
                    scores
                        .add(head * TILE_TOKENS + column)
                        .cast::<[f32; ROWS]>()
                        .write(s.sum4(sums));
                }
            }
            token += ROWS;
            column += ROWS;
        }
        while token < tokens {
            // SAFETY: as above, for one key.
            unsafe {
                let key = block.keys.as_ptr().add(token * head_dim);
                for head in 0..H {
                    let mut sum = s.splat(0.0);
                    for offset in (0..head_dim).step_by(S::LANES) {
                        let query = s.load(queries.add(head * head_dim + offset));
                        sum = s.fma(F::load(s, key.add(offset)), query, sum);
                    }
                    scores.add(head * TILE_TOKENS + column).write(s.sum(sum));
                }
            }
            token += 1;
            column += 1;
        }
    }
}

/// Turns a head's scores into weights against the largest score so far, and brings what was summed before in line.
#[inline(always)]
fn weigh<S: Simd>(s: S, tile: &mut DecodeTile<'_>, head: usize, tokens: usize) {
    let row = &mut tile.weights[head * TILE_TOKENS..][..tokens.next_multiple_of(S::LANES)];
    row[tokens..].fill(f32::NEG_INFINITY);
    let mut largest = s.splat(tile.largest[head]);
    for scores in row.chunks_exact(S::LANES) {
        // SAFETY: a chunk holds `LANES` floats.
        largest = s.max(unsafe { s.load(scores.as_ptr()) }, largest);
    }
    let before = std::mem::replace(&mut tile.largest[head], s.max_lane(largest));
    let largest = s.splat(tile.largest[head]);
    let mut sum = s.splat(0.0);
    for scores in row.chunks_exact_mut(S::LANES) {
        // SAFETY: a chunk holds `LANES` floats.
        let weights = exp2(s, s.sub(unsafe { s.load(scores.as_ptr()) }, largest));
        sum = s.add(sum, weights);
        // SAFETY: a chunk holds `LANES` floats.
        unsafe { s.store(scores.as_mut_ptr(), weights) };
    }
    let mut kept = 1.0;
    if before != tile.largest[head] {
        let factor = exp2(s, s.sub(s.splat(before), largest));
        kept = s.max_lane(factor);
        let out = &mut tile.out[head * tile.head_dim..][..tile.head_dim];
        for values in out.chunks_exact_mut(S::LANES) {
            // SAFETY: a chunk holds `LANES` floats.
            unsafe { s.store(values.as_mut_ptr(), s.mul(s.load(values.as_ptr()), factor)) };
        }
    }
    tile.sums[head] = tile.sums[head] * kept + s.sum(sum);
}

/// Adds the weighted values of the tile to heads `first..first + H`.
#[inline(always)]
fn add_values<S: Simd, F: KvFormat, const H: usize, const C: usize>(
    s: S,
    tile: &mut DecodeTile<'_>,
    first: usize,
    ahead: &mut Ahead<'_>,
) {
    let mut offset = 0;
    while offset + C * S::LANES <= tile.head_dim {
        add_columns::<S, F, H, C>(s, tile, first, offset, ahead);
        offset += C * S::LANES;
    }
    while offset < tile.head_dim {
        add_columns::<S, F, H, 1>(s, tile, first, offset, ahead);
        offset += S::LANES;
    }
}

/// [`add_values`] for `C` vectors of each value, from element `offset` on.
#[inline(always)]
fn add_columns<S: Simd, F: KvFormat, const H: usize, const C: usize>(
    s: S,
    tile: &mut DecodeTile<'_>,
    first: usize,
    offset: usize,
    ahead: &mut Ahead<'_>,
) {
    let head_dim = tile.head_dim;
    let mut weights = tile.weights[first * TILE_TOKENS..][..H * TILE_TOKENS].as_ptr();
    let out = tile.out[first * head_dim..][..H * head_dim].as_mut_ptr();
    let mut sums = [[s.splat(0.0); C]; H];
    // SAFETY: `offset + C * LANES` is at most `head_dim`, and `out` holds `H` rows of that.
    unsafe {
        for (head, sums) in sums.iter_mut().enumerate() {
            for (chunk, sum) in sums.iter_mut().enumerate() {
                *sum = s.load(out.add(head * head_dim + offset + chunk * S::LANES));
            }
        }
    }
    for block in tile.blocks {
        let tokens = block.values.len() / head_dim;
        for token in 0..tokens {
            if first == 0 && (token * C * S::LANES).is_multiple_of(LINE) {
                ahead.advance(s, (C * S::LANES).div_ceil(LINE));
            }
            // SAFETY: the block holds value `token`, of which elements up to `offset + C * LANES` are read; `weights` points
            // to this token's column of `H` rows of `TILE_TOKENS`.
            unsafe {
                let value = block.values.as_ptr().add(token * head_dim + offset);
                let mut chunks = [s.splat(0.0); C];
                for (chunk, values) in chunks.iter_mut().enumerate() {
                    *values = F::load(s, value.add(chunk * S::LANES));
                }
                for (head, sums) in sums.iter_mut().enumerate() {
                    let weight = s.splat(*weights.add(head * TILE_TOKENS));
                    for (chunk, sum) in sums.iter_mut().enumerate() {
                        *sum = s.fma(weight, chunks[chunk], *sum);
                    }
                }
                weights = weights.add(1);
            }
        }
    }
    // SAFETY: as where they were loaded.
    unsafe {
        for (head, sums) in sums.iter().enumerate() {
            for (chunk, &sum) in sums.iter().enumerate() {
                s.store(out.add(head * head_dim + offset + chunk * S::LANES), sum);
            }
        }
    }
}
