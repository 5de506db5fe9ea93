//! Two attentions on the same prompts: what the one changes against the other.

use serde::Serialize;

use super::random::Random;

/// Resamples of a bootstrap.
const RESAMPLES: usize = 4000;
/// Share of resamples outside an interval.
const OUTSIDE: f64 = 0.05;
/// Differences of scores below this are none.
const NEGLIGIBLE: f64 = 1e-9;

/// Scores of the one less those of the other, in points of 100.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Paired {
    /// Prompts.
    pub samples: usize,
    /// Mean difference.
    pub difference: f64,
    /// A 95 % interval of the mean difference, see [`Paired::new`].
    pub interval: [f64; 2],
    /// Prompts that score better.
    pub flips_up: usize,
    /// Prompts that score worse.
    pub flips_down: usize,
}

impl Paired {
    /// Compares scores (from 0 to 1) prompt by prompt.
    ///
    /// The interval is a bootstrap's over prompts: their differences are drawn anew with replacement 4,000 times, from a
    /// fixed seed, and the middle 95 % of the means are kept. Where all differ alike (most often not at all), that would be
    /// a point; then it is what the number of prompts allows: a share p of others stays unseen in n prompts with a
    /// probability of (1 − p)ⁿ, which is 5 % at p = 1 − 0.05^(1/n).
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "prompts are few")]
    pub fn new(pairs: &[(f64, f64)]) -> Self {
        let differences: Vec<f64> = pairs.iter().map(|(score, against)| score - against).collect();
        let samples = differences.len();
        let flips = |sign: f64| differences.iter().filter(|&&d| d * sign > NEGLIGIBLE).count();
        let (flips_up, flips_down) = (flips(1.0), flips(-1.0));
        let mean = differences.iter().sum::<f64>() / samples.max(1) as f64;
        let alike = differences.iter().all(|difference| (difference - mean).abs() < NEGLIGIBLE);
        let interval = if alike {
            let unseen = 1.0 - OUTSIDE.powf(1.0 / samples.max(1) as f64);
            [(mean - unseen).max(-1.0), (mean + unseen).min(1.0)]
        } else {
            bootstrap(&differences)
        };
        Self {
            samples,
            difference: 100.0 * mean,
            interval: interval.map(|bound| 100.0 * bound),
            flips_up,
            flips_down,
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "prompts are few"
)]
fn bootstrap(differences: &[f64]) -> [f64; 2] {
    let mut random = Random::new(0, &["bootstrap"]);
    let count = differences.len();
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| (0..count).map(|_| *random.choose(differences)).sum::<f64>() / count as f64)
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    let last = (RESAMPLES - 1) as f64;
    [OUTSIDE / 2.0, 1.0 - OUTSIDE / 2.0].map(|share| means[(share * last).round() as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flips_are_counted_in_both_directions() {
        let pairs = [(1.0, 0.0), (0.0, 1.0), (0.25, 0.5), (1.0, 1.0)];
        let paired = Paired::new(&pairs);
        assert_eq!((paired.samples, paired.flips_up, paired.flips_down), (4, 1, 2));
        assert!((paired.difference + 6.25).abs() < 1e-9);
        assert!(paired.interval[0] < paired.difference && paired.difference < paired.interval[1]);
    }

    #[test]
    fn an_interval_is_about_two_standard_errors_wide() {
        let pairs: Vec<(f64, f64)> =
            (0..400).map(|at| (f64::from(u8::from(at % 4 == 0)), 0.0)).collect();
        let [low, high] = Paired::new(&pairs).interval;
        let error = 100.0 * (0.25_f64 * 0.75 / 400.0).sqrt();
        assert!((low - (25.0 - 1.96 * error)).abs() < 0.6, "{low}");
        assert!((high - (25.0 + 1.96 * error)).abs() < 0.6, "{high}");
    }

    #[test]
    fn prompts_without_a_difference_say_as_much_as_they_are_many() {
        let of = |count| Paired::new(&vec![(1.0, 1.0); count]).interval[1];
        assert!((of(20) - 13.9).abs() < 0.1, "{}", of(20));
        assert!((of(300) - 1.0).abs() < 0.1, "{}", of(300));
        assert!((of(1) - 95.0).abs() < 1e-9);
    }
}
