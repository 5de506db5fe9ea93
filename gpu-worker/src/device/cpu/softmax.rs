//! The arithmetic of a softmax that sees its scores a tile at a time.
//!
//! Scores are kept in base 2 (`q·k · scale · log2 e`), so that `exp` is `2^x`, and a row's state is its largest score so
//! far and the sum of `2^(score - largest)`.

/// The largest score of a row that has seen no key: finite, so that differences with it are never NaN.
pub(super) const NO_SCORE: f32 = f32::MIN;

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn merging_is_symmetric_and_weighs_by_the_log_sum_exp(
            a in prop::collection::vec(-3_f32..3.0, 4),
            b in prop::collection::vec(-3_f32..3.0, 4),
            lse_a in prop::collection::vec(-100_f32..100.0, 2),
            lse_b in prop::collection::vec(-100_f32..100.0, 2),
        ) {
            let (mut ab, mut lse_ab) = (a.clone(), lse_a.clone());
            merge(&mut ab, &mut lse_ab, &b, &lse_b);
            let (mut ba, mut lse_ba) = (b.clone(), lse_b.clone());
            merge(&mut ba, &mut lse_ba, &a, &lse_a);
            prop_assert_eq!(&lse_ab, &lse_ba);
            for index in 0..4 {
                let (la, lb) = (f64::from(lse_a[index / 2]), f64::from(lse_b[index / 2]));
                let share = 1.0 / (1.0 + (lb - la).exp());
                let exact = f64::from(a[index]) * share + f64::from(b[index]) * (1.0 - share);
                prop_assert!((f64::from(ab[index]) - exact).abs() < 1e-5);
                prop_assert!((ab[index] - ba[index]).abs() < 1e-6);
                let lse = la.max(lb) + (-(la - lb).abs()).exp().ln_1p();
                prop_assert!((f64::from(lse_ab[index / 2]) - lse).abs() < 1e-5 * (1.0 + lse.abs()));
            }
        }
    }

    #[test]
    fn merging_nothing_changes_nothing() {
        let nothing = ([0.0; 2], [f32::NEG_INFINITY]);
        for (mut ours, theirs) in [(([1.5, -2.0], [3.0]), nothing), (nothing, ([1.5, -2.0], [3.0]))]
        {
            merge(&mut ours.0, &mut ours.1, &theirs.0, &theirs.1);
            assert_eq!(ours, ([1.5, -2.0], [3.0]));
        }
        let mut ours = nothing;
        merge(&mut ours.0, &mut ours.1, &nothing.0, &nothing.1);
        assert_eq!(ours, nothing);
    }
}
