//! The k largest of many weights, without sorting them.

use crate::kernels::Kernels;

/// Weights that are few enough to be gone through many times.
const FEW: usize = 4096;

/// A floor that exactly `k` of `weights` reach, which are neither negative nor NaN; or the `k`-th largest of them, if others are
/// equal to it. And how many reach it. `None` if there are fewer.
///
/// The bits of such floats are ordered as the floats are, so bisecting the bits ends after at most 32 passes, each of which
/// only counts. Once few weights are left they are copied to `narrowed`, and passes are short.
fn floor_of_largest(
    kernels: Kernels,
    weights: &[f32],
    k: usize,
    narrowed: &mut Vec<f32>,
) -> Option<(f32, usize)> {
    if k == 0 || weights.len() < k {
        return None;
    }
    let (mut low, mut high) = (0, f32::INFINITY.to_bits() + 1);
    let mut reached = weights.len();
    narrowed.clear();
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        let floor = f32::from_bits(middle);
        let left = if narrowed.is_empty() { weights } else { narrowed.as_slice() };
        let count = kernels.count_not_below(left, floor);
        if count < k {
            high = middle;
            continue;
        }
        (low, reached) = (middle, count);
        if count == k {
            break;
        }
        if narrowed.is_empty() && weights.len() > FEW.max(2 * k) && count <= weights.len() / 8 {
            kernels.keep_not_below(weights, floor, narrowed);
        }
    }
    Some((f32::from_bits(low), reached))
}

/// Appends to `out` the `k` tokens with the largest weights in the order in which they stand in `tokens`, or all of
/// them if there are fewer. Among equals the first are taken.
pub(crate) fn select(
    kernels: Kernels,
    tokens: &[u32],
    weights: &[f32],
    k: usize,
    narrowed: &mut Vec<f32>,
    out: &mut Vec<u32>,
) {
    debug_assert_eq!(tokens.len(), weights.len());
    let Some((floor, reached)) = floor_of_largest(kernels, weights, k, narrowed) else {
        if k > 0 {
            out.extend_from_slice(tokens);
        }
        return;
    };
    if reached == k {
        kernels.pick_not_below(weights, floor, tokens, out);
        return;
    }
    // The floor is the smallest weight that is wanted, but not all that are equal to it are.
    let ties = weights.iter().filter(|&&weight| weight == floor).count();
    let mut wanted = ties - (reached - k);
    for (&token, &weight) in tokens.iter().zip(weights) {
        if weight > floor || (weight == floor && wanted > 0) {
            wanted -= usize::from(weight == floor);
            out.push(token);
        }
    }
}

/// Appends to `out` the weights of the `picked` tokens, all of which are among `tokens`; both ascend.
pub(crate) fn weights_of(picked: &[u32], tokens: &[u32], weights: &[f32], out: &mut Vec<f32>) {
    debug_assert_eq!(tokens.len(), weights.len());
    let first = out.len();
    out.resize(first + picked.len(), 0.0);
    let (out, mut at) = (&mut out[first..], 0);
    for (&token, &weight) in tokens.iter().zip(weights) {
        if at == picked.len() {
            return;
        }
        // Written again until the token is the one: which is which cannot be foreseen, and a branch would be.
        out[at] = weight;
        at += usize::from(token == picked[at]);
    }
    debug_assert_eq!(at, picked.len(), "a picked token is none of the tokens");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(weights: &[f32], k: usize) {
        let tokens: Vec<u32> = (0..).zip(weights).map(|(at, _)| 3 * at).collect();
        let mut expected: Vec<usize> = (0..weights.len()).collect();
        expected.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]).then(a.cmp(&b)));
        expected.truncate(k);
        expected.sort_unstable();
        let mut found = Vec::new();
        select(Kernels::detect(), &tokens, weights, k, &mut Vec::new(), &mut found);
        let of_found: Vec<f32> = expected.iter().map(|&at| weights[at]).collect();
        let expected: Vec<u32> = expected.iter().map(|&at| tokens[at]).collect();
        assert_eq!(found, expected);
        let mut found_weights = Vec::new();
        weights_of(&found, &tokens, weights, &mut found_weights);
        assert_eq!(found_weights, of_found);
    }

    proptest! {
        #[test]
        fn selecting_agrees_with_sorting(
            weights in prop::collection::vec((0_u8..40).prop_map(|w| f32::from(w) * 1e-3), 0..200),
            k in 0_usize..80,
        ) {
            check(&weights, k);
        }
    }

    #[test]
    fn many_weights_are_narrowed_down() {
        let weight =
            |i: u32| f32::from_bits(0x3000_0000 + i.wrapping_mul(2_654_435_761) % (1 << 27));
        let weights: Vec<f32> = (0..50_000).map(weight).collect();
        for k in [1, 100, 5000, 49_999, 50_000, 60_000] {
            check(&weights, k);
        }
    }
}
