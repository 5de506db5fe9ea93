//! The kernels in plain Rust: what the others are tested against, and all there is on other processors.

use half::{bf16, f16};
use hindsight_protocol::geometry::KvDtype;

use super::{CODE_GROUP, CODE_WORDS, GroupQuery, dense};

/// A stored element as `f32`.
#[inline]
pub(crate) fn widen(dtype: KvDtype, bits: u16) -> f32 {
    match dtype {
        KvDtype::F16 => f16::from_bits(bits).to_f32(),
        KvDtype::Bf16 => bf16::from_bits(bits).to_f32(),
    }
}

/// Writes the score of `rows[i]` for head `h` to `out[h * stride + i]`.
pub(super) fn score_rows(
    dtype: KvDtype,
    query: &GroupQuery,
    rows: &[&[u16]],
    _ahead: &[&[u16]],
    out: &mut [f32],
    stride: usize,
) {
    for (column, row) in rows.iter().enumerate() {
        for head in 0..query.group() {
            let products = query.head(head).iter().zip(*row);
            out[head * stride + column] = products.map(|(q, &k)| q * widen(dtype, k)).sum();
        }
    }
}

/// Replaces scores by `exp(score − max)`, and returns `max` and the sum of them.
pub(super) fn exponentiate(scores: &mut [f32]) -> (f32, f32) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (max, exponentiate_from(scores, max))
}

/// Replaces scores by `exp(score − max)`, and returns their sum.
pub(super) fn exponentiate_from(scores: &mut [f32], max: f32) -> f32 {
    let mut sum = 0.0;
    for score in scores {
        *score = (*score - max).exp();
        sum += *score;
    }
    sum
}

/// The rank that two heads with ranks `a` and `b` have together: the larger, plus `join[min(|a − b| / 4, 15)]`.
#[inline]
fn join_ranks(a: u8, b: u8, join: &[u8; 16]) -> u8 {
    a.max(b).saturating_add(join[usize::from(a.abs_diff(b) / 4).min(15)])
}

fn largest(numbers: &[f32; CODE_WORDS]) -> f32 {
    numbers.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The sum of the largest numbers of all rows.
pub(super) fn sum_of_largest(rows: &[[f32; CODE_WORDS]]) -> f32 {
    rows.iter().map(largest).sum()
}

/// Writes to `tables` how many units each number lies below the largest of its row, rounded, at most 255.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casting saturates")]
pub(super) fn units_below_largest(
    rows: &[[f32; CODE_WORDS]],
    per_unit: f32,
    tables: &mut [[u8; CODE_WORDS]],
) {
    for (row, table) in rows.iter().zip(tables) {
        let most = largest(row);
        *table = row.map(|number| ((most - number) * per_unit + 0.5) as u8);
    }
}

/// See [`super::Kernels::scan_codes`].
pub(super) fn scan_codes(
    codes: &[u8],
    tables: &[[u8; CODE_WORDS]],
    best: &[u8],
    join: &[u8; 16],
    ranks: &mut [u8],
) {
    let subspaces = tables.len() / best.len();
    let groups = codes.chunks_exact(subspaces / 2 * CODE_GROUP);
    for (group, ranks) in groups.zip(ranks.chunks_exact_mut(CODE_GROUP)) {
        for (key, rank) in ranks.iter_mut().enumerate() {
            *rank = 0;
            for (head, &best) in best.iter().enumerate() {
                let tables = &tables[head * subspaces..][..subspaces];
                let mut distance = 0_u8;
                for (pair, tables) in tables.chunks_exact(2).enumerate() {
                    let code = group[pair * CODE_GROUP + key];
                    distance = distance
                        .saturating_add(tables[0][usize::from(code & 15)])
                        .saturating_add(tables[1][usize::from(code >> 4)]);
                }
                let own = best.saturating_sub(distance);
                *rank = if head == 0 { own } else { join_ranks(*rank, own, join) };
            }
        }
    }
}

/// Number of ranks that are at least `cut`.
pub(super) fn count_at_least(ranks: &[u8], cut: u8) -> usize {
    ranks.iter().filter(|&&rank| rank >= cut).count()
}

/// Appends `first + i` for each rank `i` that is at least `cut`.
pub(super) fn collect_at_least(ranks: &[u8], cut: u8, first: u32, out: &mut Vec<u32>) {
    out.extend((first..).zip(ranks).filter(|(_, rank)| **rank >= cut).map(|(token, _)| token));
}

/// Number of weights that are not below `floor`.
pub(super) fn count_not_below(weights: &[f32], floor: f32) -> usize {
    weights.iter().filter(|&&weight| weight >= floor).count()
}

/// Appends the weights that are not below `floor`.
pub(super) fn keep_not_below(weights: &[f32], floor: f32, out: &mut Vec<f32>) {
    out.extend(weights.iter().filter(|weight| **weight >= floor));
}

/// Appends the tokens whose weights are not below `floor`.
pub(super) fn pick_not_below(weights: &[f32], floor: f32, tokens: &[u32], out: &mut Vec<u32>) {
    let pairs = tokens.iter().zip(weights);
    out.extend(pairs.filter(|(_, weight)| **weight >= floor).map(|(token, _)| *token));
}

dense::compile!(false);

/// The sum of all whole vectors of 32 words, as 64-bit words.
pub(super) fn read(words: &[u16], _ahead: &[u16]) -> u64 {
    let mut sum = 0_u64;
    for part in words.chunks_exact(32) {
        for [a, b, c, d] in part.as_chunks::<4>().0 {
            let (low, high) =
                (u64::from(*a) | u64::from(*b) << 16, u64::from(*c) | u64::from(*d) << 16);
            sum = sum.wrapping_add(low | high << 32);
        }
    }
    sum
}
