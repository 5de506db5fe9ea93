//! How well each token of a text is predicted by a decode step, under one attention against another.

use hindsight_protocol::records::AttentionPolicy;
use serde::{Deserialize, Serialize};

/// A stretch of a text: what is read first, and what is then predicted token by token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Position of its first token.
    pub start: usize,
    /// Position of the first token that is predicted.
    pub predicted: usize,
    /// Position after its last token.
    pub end: usize,
}

/// Cuts a text of `tokens` tokens into windows of `context` tokens, of which the last `stride` are predicted: each token
/// is predicted once, with at least `context - stride` tokens before it. At most `most` windows; what is left of the
/// text after the last whole window is left out.
#[must_use]
pub fn windows(tokens: usize, context: usize, stride: usize, most: usize) -> Vec<Window> {
    let starts = (0..tokens.saturating_sub(context - 1)).step_by(stride.max(1)).take(most);
    let window =
        |start| Window { start, predicted: start + context - stride, end: start + context };
    starts.map(window).collect()
}

/// What was predicted in a window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Predicted {
    /// Number of the window.
    pub index: u64,
    /// Natural logarithm of the probability of each token.
    pub log_probabilities: Vec<f32>,
    /// The likeliest token in each place.
    pub likeliest: Vec<u32>,
    /// By how much the logarithm of its probability exceeds that of the next one.
    #[serde(default)]
    pub leads: Vec<f32>,
    /// Seconds of decoding.
    pub decode_s: f64,
}

/// One attention over all windows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PerplexityRow {
    /// Which keys were attended to.
    pub attention: AttentionPolicy,
    /// Tokens of a window.
    pub context: usize,
    /// Tokens predicted.
    pub tokens: usize,
    /// The exponential of the mean negative log probability.
    pub perplexity: f64,
    /// Milliseconds of a decode step.
    pub decode_ms_per_token: f64,
    /// What it changes against the first attention; nothing for the first itself.
    pub against: Option<Against>,
}

/// One attention against another, token by token.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Against {
    /// The other.
    pub attention: AttentionPolicy,
    /// Perplexity over the other's, less 1, in percent.
    pub change_percent: f64,
    /// Share of places with the same likeliest token, in percent.
    pub same_likeliest_percent: f64,
    /// Mean absolute difference of log probabilities in each quarter of the windows' predicted tokens: whether errors add
    /// up as decoding goes on.
    pub mean_difference_by_quarter: [f64; 4],
}

impl PerplexityRow {
    /// Puts the windows of one attention together, and compares them with the same windows of another, if there is one.
    /// `windows` and the other's are in the same order; windows that the other lacks are left out of the comparison.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts become means of a few digits")]
    pub fn new(
        attention: AttentionPolicy,
        context: usize,
        windows: &[Predicted],
        other: Option<(AttentionPolicy, &[Predicted])>,
    ) -> Self {
        let tokens = windows.iter().map(|window| window.log_probabilities.len()).sum::<usize>();
        let decode_s = windows.iter().map(|window| window.decode_s).sum::<f64>();
        Self {
            attention,
            context,
            tokens,
            perplexity: perplexity(windows.iter()),
            decode_ms_per_token: 1e3 * decode_s / tokens.max(1) as f64,
            against: other.map(|(attention, other)| Against::new(attention, windows, other)),
        }
    }
}

impl Against {
    #[expect(clippy::cast_precision_loss, reason = "counts become means of a few digits")]
    fn new(attention: AttentionPolicy, windows: &[Predicted], other: &[Predicted]) -> Self {
        let pairs: Vec<(&Predicted, &Predicted)> = windows
            .iter()
            .filter_map(|window| {
                Some((window, other.iter().find(|other| other.index == window.index)?))
            })
            .collect();
        let ours = perplexity(pairs.iter().map(|(window, _)| *window));
        let theirs = perplexity(pairs.iter().map(|(_, other)| *other));
        let (mut same, mut places) = (0_usize, 0_usize);
        let mut quarters = [(0.0, 0_usize); 4];
        for (window, other) in pairs {
            let predicted = window.log_probabilities.len();
            places += predicted;
            same += window.likeliest.iter().zip(&other.likeliest).filter(|(a, b)| a == b).count();
            let probabilities = window.log_probabilities.iter().zip(&other.log_probabilities);
            for (place, (a, b)) in probabilities.enumerate() {
                let (sum, count) = &mut quarters[4 * place / predicted];
                *sum += f64::from((a - b).abs());
                *count += 1;
            }
        }
        Self {
            attention,
            change_percent: 100.0 * (ours / theirs - 1.0),
            same_likeliest_percent: 100.0 * same as f64 / places.max(1) as f64,
            mean_difference_by_quarter: quarters.map(|(sum, count)| sum / count.max(1) as f64),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "texts have fewer than 2^52 tokens")]
fn perplexity<'w>(windows: impl Iterator<Item = &'w Predicted>) -> f64 {
    let (mut sum, mut count) = (0.0, 0_usize);
    for window in windows {
        sum -= window.log_probabilities.iter().map(|&log| f64::from(log)).sum::<f64>();
        count += window.log_probabilities.len();
    }
    (sum / count.max(1) as f64).exp()
}

#[cfg(test)]
mod tests {
    use AttentionPolicy::{Full, Lfps};

    use super::*;

    #[test]
    fn every_token_after_the_first_context_is_predicted_once() {
        let windows = windows(1000, 300, 100, usize::MAX);
        assert_eq!(windows[0], Window { start: 0, predicted: 200, end: 300 });
        assert!(windows.windows(2).all(|pair| pair[0].end == pair[1].predicted));
        assert_eq!(windows.last().unwrap().end, 1000);
        assert!(super::windows(299, 300, 100, 9).is_empty());
        assert_eq!(super::windows(1000, 300, 100, 2).len(), 2);
    }

    fn predicted(index: u64, probabilities: &[f32], likeliest: &[u32]) -> Predicted {
        Predicted {
            index,
            log_probabilities: probabilities.iter().map(|p| p.ln()).collect(),
            likeliest: likeliest.to_vec(),
            leads: Vec::new(),
            decode_s: 0.004,
        }
    }

    #[test]
    fn perplexity_is_that_of_a_fair_die() {
        let sixth = 1.0 / 6.0;
        let windows = [predicted(0, &[sixth; 8], &[1; 8]), predicted(1, &[sixth; 8], &[2; 8])];
        let row = PerplexityRow::new(Full, 64, &windows, None);
        assert!((row.perplexity - 6.0).abs() < 1e-5, "{}", row.perplexity);
        assert_eq!((row.tokens, row.against), (16, None));
        assert!((row.decode_ms_per_token - 0.5).abs() < 1e-9);
    }

    #[test]
    fn differences_are_told_by_quarter() {
        let full = [predicted(0, &[0.5; 8], &[1; 8])];
        let lfps =
            [predicted(0, &[0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25], &[1, 1, 1, 1, 1, 1, 1, 3])];
        let row = PerplexityRow::new(Lfps, 64, &lfps, Some((Full, &full)));
        let against = row.against.unwrap();
        assert!((against.same_likeliest_percent - 87.5).abs() < 1e-9);
        let ln_2 = std::f64::consts::LN_2;
        let expected = [0.0, 0.0, 0.0, ln_2];
        for (found, expected) in against.mean_difference_by_quarter.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6);
        }
        let change = 100.0 * (2.0_f64.powf(0.25) - 1.0);
        assert!((against.change_percent - change).abs() < 1e-4);
    }
}
