//! What codes get wrong: how far the keys that were read last lay from their estimates.

use std::ops::Range;

use super::proposal::Proposal;
use crate::kernels::fetch;
use crate::sketch::Ranking;

/// Deviations are kept in steps of one sixteenth of a natural logarithm.
const STEPS: f32 = 16.0;
/// Binary places of the factor from steps to ranks.
const FRACTION: u32 = 14;

/// The candidates of the last step, and for each the logarithm of its true weight over the estimated one.
///
/// A key whose code overrates or underrates it for one query does so for similar queries, too.
#[derive(Debug, Clone)]
pub(super) struct Deviations {
    tokens: Vec<u32>,
    steps: Vec<i8>,
    /// Ranks before the correction, while one is applied.
    uncorrected: Vec<u8>,
}

impl Deviations {
    pub(super) fn new(most: usize) -> Self {
        Self {
            tokens: Vec::with_capacity(most),
            steps: Vec::with_capacity(most),
            uncorrected: Vec::with_capacity(most),
        }
    }

    /// Bytes read and written at a step.
    pub(super) const fn bytes(&self) -> usize {
        self.tokens.len() * (size_of::<u32>() + size_of::<i8>())
    }

    /// Asks for what the next step reads.
    pub(super) fn fetch(&self) {
        fetch(&self.tokens);
        fetch(&self.steps);
    }

    /// Corrects the ranks of the remembered tokens by `persistence` times their deviations.
    pub(super) fn apply(&mut self, ranking: &mut Ranking, persistence: f32) {
        let factor = fixed(persistence / (STEPS * ranking.unit));
        self.uncorrected.clear();
        for (&token, &steps) in self.tokens.iter().zip(&self.steps) {
            let rank = &mut ranking.ranks[token as usize];
            self.uncorrected.push(*rank);
            *rank = corrected(*rank, steps, factor);
        }
    }

    /// Takes corrections, and whatever else happened to the ranks of remembered tokens, back.
    pub(super) fn undo(&self, ranking: &mut Ranking) {
        for (&token, &rank) in self.tokens.iter().zip(&self.uncorrected) {
            ranking.ranks[token as usize] = rank;
        }
    }

    /// Remembers how far the candidates of `proposal`, which have been weighed, lie from what their codes said: nothing, if
    /// their codes said nothing.
    pub(super) fn observe(&mut self, proposal: &Proposal) {
        let Proposal { candidates, ranks, weights, .. } = proposal;
        self.tokens.clear();
        self.steps.clear();
        self.tokens.extend_from_slice(&candidates[..ranks.len()]);
        self.steps.extend(
            ranks
                .iter()
                .zip(weights)
                .map(|(&rank, &weight)| to_steps(rough_ln(weight) - proposal.log_weight_of(rank))),
        );
    }

    /// Forgets tokens outside `middle`.
    pub(super) fn retain(&mut self, middle: Range<usize>) {
        debug_assert!(self.tokens.is_sorted());
        let start = self.tokens.partition_point(|&token| (token as usize) < middle.start);
        let end = self.tokens.partition_point(|&token| (token as usize) < middle.end);
        self.tokens.truncate(end);
        self.steps.truncate(end);
        self.tokens.drain(..start);
        self.steps.drain(..start);
    }
}

/// The natural logarithm, too small by at most 0.06, as the bits of a float tell it: less than one step.
fn rough_ln(positive: f32) -> f32 {
    const SCALE: f32 = std::f32::consts::LN_2 / (1 << 23) as f32;
    (positive.to_bits() as f32 - 1.0_f32.to_bits() as f32) * SCALE
}

/// The nearest step; casting saturates.
#[expect(clippy::cast_possible_truncation)]
fn to_steps(deviation: f32) -> i8 {
    let number = deviation * STEPS;
    (number + 0.5_f32.copysign(number)) as i8
}

/// A factor with [`FRACTION`] binary places.
#[expect(clippy::cast_possible_truncation, reason = "casting saturates")]
fn fixed(factor: f32) -> i32 {
    // By larger ones any step moves a rank to the end.
    (factor.min(256.0) * (1 << FRACTION) as f32) as i32
}

/// A rank moved by `factor` times `steps`, rounded.
#[expect(clippy::cast_sign_loss, reason = "clamped to a byte")]
fn corrected(rank: u8, steps: i8, factor: i32) -> u8 {
    let change = (factor * i32::from(steps) + (1 << (FRACTION - 1))) >> FRACTION;
    (i32::from(rank) + change).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rough_logarithms_are_within_a_step() {
        for weight in [1e-30_f32, 1e-6, 0.001, 0.3, 1.0, 1.4, 3.9] {
            let error = weight.ln() - rough_ln(weight);
            assert!((0.0..0.0625).contains(&error), "{weight}: {error}");
        }
    }

    #[test]
    fn ranks_are_corrected_to_the_nearest_and_saturate() {
        let of = |rank, steps, factor: f32| corrected(rank, steps, fixed(factor));
        assert_eq!([of(9, 3, 0.5), of(9, -3, 0.5), of(9, -3, 0.6)], [11, 8, 7]);
        assert_eq!([of(250, 127, 0.9), of(5, -128, 1e9), of(0, 0, 1e9)], [255, 0, 0]);
    }

    #[test]
    fn steps_are_rounded_and_saturate() {
        assert_eq!([0.04, -0.04, 0.02, 99.0, -99.0].map(to_steps), [1, -1, 0, 127, -128]);
    }
}
