//! The arithmetic of a softmax that sees its scores a tile at a time.
//!
//! Scores are kept in base 2 (`q·k · scale · log2 e`), so that `exp` is `2^x`, and a row's state is its largest score so
//! far and the sum of `2^(score - largest)`.

use super::simd::Simd;

/// Minimax polynomial of `2^r` on `[-1/2, 1/2]`, relative error 2e-9; lowest degree first.
const EXP2: [f32; 7] = [
    1.0,
    0.693_147_2,
    0.240_226_46,
    0.055_503_286,
    0.009_618_489,
    0.001_339_993_1,
    0.000_153_458_12,
];

/// The largest score of a row that has seen no key: finite, so that differences with it are never NaN.
pub(super) const NO_SCORE: f32 = f32::MIN;

/// `2^x` for `x <= 0`, at most 1 ulp from the exact value, and exactly 1 at 0.
///
/// Results under `2^-125` are 0, which includes `x = -inf`; NaN stays NaN.
#[inline(always)]
pub(super) fn exp2<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let whole = s.round(x);
    let rest = s.sub(x, whole);
    let mut power = s.splat(EXP2[6]);
    for &coefficient in EXP2[..6].iter().rev() {
        power = s.fma(power, rest, s.splat(coefficient));
    }
    s.scale_by_power_of_two(power, whole, x)
}

/// Ends a row of one query head: divides the weighted values by the sum of the weights and returns the natural
/// log-sum-exp. A row without any key is 0 with a log-sum-exp of `-inf`.
pub(super) fn finish(out: &mut [f32], largest: f32, sum: f32) -> f32 {
    if sum == 0.0 {
        out.fill(0.0);
        return f32::NEG_INFINITY;
    }
    let inverse = 1.0 / sum;
    for value in out {
        *value *= inverse;
    }
    ((f64::from(largest) + f64::from(sum).log2()) * std::f64::consts::LN_2) as f32
}

/// Merges attention over one set of keys into attention over another, disjoint set.
///
/// `out` and `lse` are `[group, head_dim]` and `[group]` as [`decode`](super::CpuAttention::decode) returns them, and
/// become the result over both sets. A side without keys (`lse = -inf`) changes nothing.
///
/// # Panics
/// If the lengths do not agree.
pub fn merge(out: &mut [f32], lse: &mut [f32], other_out: &[f32], other_lse: &[f32]) {
    assert_eq!(out.len(), other_out.len(), "two results of one shape");
    assert_eq!(lse.len(), other_lse.len(), "two results of one shape");
    if lse.is_empty() {
        return;
    }
    let head_dim = out.len() / lse.len();
    assert_eq!(out.len(), head_dim * lse.len(), "whole heads");
    let rows = out.chunks_exact_mut(head_dim).zip(other_out.chunks_exact(head_dim));
    for ((row, other_row), (lse, &other_lse)) in rows.zip(lse.iter_mut().zip(other_lse)) {
        let largest = lse.max(other_lse);
        if largest == f32::NEG_INFINITY {
            continue;
        }
        let (weight, other_weight) = ((*lse - largest).exp(), (other_lse - largest).exp());
        let sum = weight + other_weight;
        let (share, other_share) = (weight / sum, other_weight / sum);
        for (value, &other_value) in row.iter_mut().zip(other_row) {
            *value = *value * share + other_value * other_share;
        }
        *lse = largest + sum.ln();
    }
}
