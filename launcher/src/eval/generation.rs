//! How far one attention departs from another over a long text that is decoded greedily.
//!
//! Two things are compared. Each attention decodes a text of its own: the place where it first departs from the
//! reference's. And each is given the reference's text token by token: how far its predictions are from the reference's
//! at each place, and whether they drift apart as the text grows.

use hindsight_protocol::records::AttentionPolicy;
use serde::{Deserialize, Serialize};

use super::perplexity::Predicted;

/// A text that was decoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generated {
    /// Its number; there is but one.
    pub index: u64,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Seconds of decoding.
    pub decode_s: f64,
    /// Bytes that travelled to the worker, or would have with a device of its own.
    pub link_bytes: f64,
}

/// What was done under one attention.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// Which keys were attended to.
    pub attention: AttentionPolicy,
    /// The text that it decoded itself, if it has.
    pub generated: Option<Generated>,
    /// How it predicted the reference's text, if it has.
    pub predicted: Option<Predicted>,
}

/// The text of one attention.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GenerationRow {
    /// Which keys were attended to.
    pub attention: AttentionPolicy,
    /// Tokens decoded.
    pub tokens: usize,
    /// Milliseconds of a decode step.
    pub decode_ms_per_token: f64,
    /// Bytes that travelled to the worker for each token, or would have with a device of its own.
    pub link_bytes_per_token: f64,
    /// The text.
    pub text: String,
}

/// Where a text first departs from the reference's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Departure {
    /// Number of tokens that are the same before it.
    pub after_tokens: usize,
    /// By how much the logarithm of the likeliest token's probability exceeds the next one's there, under the reference.
    pub reference_lead: f64,
    /// The same under the attention that departs.
    pub lead: f64,
}

/// Consecutive tokens of the reference's text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stretch {
    /// Place of its first token in the text.
    pub start: usize,
    /// Place after its last.
    pub end: usize,
    /// Mean absolute difference of the log probability of the text's token.
    pub mean_difference: f64,
    /// Share of places with the same likeliest token, in percent.
    pub same_likeliest_percent: f64,
    /// Mean log probability of the text's token under the reference: near 0 where the text repeats itself.
    pub reference_log_probability: f64,
}

/// One attention against the reference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Divergence {
    /// The one.
    pub attention: AttentionPolicy,
    /// The reference.
    pub against: AttentionPolicy,
    /// Where the one's own text departs; nothing if it does not.
    pub departure: Option<Departure>,
    /// Mean absolute difference of the log probability of the reference's tokens.
    pub mean_difference: f64,
    /// Share of places with the same likeliest token, in percent.
    pub same_likeliest_percent: f64,
    /// By how much the difference grows from one token to a hundred tokens later, by the straight line that fits best.
    pub growth_per_100_tokens: f64,
    /// Its 95 % interval.
    pub growth_interval: [f64; 2],
    /// The same by stretches.
    pub stretches: Vec<Stretch>,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GenerationReport {
    /// The model, as the user named it.
    pub model: String,
    /// Keys that each KV head selects.
    pub top_k: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Every text.
    pub rows: Vec<GenerationRow>,
    /// Every attention against the first, whose text it was given.
    pub against: Vec<Divergence>,
    /// Whether something is still to be done.
    pub complete: bool,
}

impl GenerationReport {
    /// Puts together what was `decoded`, the reference first; `text` turns tokens into text. Stretches have
    /// `stretch_tokens` tokens.
    #[must_use]
    pub fn new(
        model: &str,
        top_k: usize,
        prompt_tokens: usize,
        stretch_tokens: usize,
        decoded: &[Decoded],
        text: impl Fn(&[u32]) -> String,
    ) -> Self {
        let row = |decoded: &Decoded| {
            let generated = decoded.generated.as_ref()?;
            let steps = generated.tokens.len().saturating_sub(1).max(1) as f64;
            Some(GenerationRow {
                attention: decoded.attention,
                tokens: generated.tokens.len(),
                decode_ms_per_token: 1e3 * generated.decode_s / steps,
                link_bytes_per_token: generated.link_bytes / steps,
                text: text(&generated.tokens),
            })
        };
        let against = |reference: &Decoded, decoded: &Decoded| {
            Divergence::new(reference, decoded, stretch_tokens.max(1))
        };
        let (reference, others) = match decoded.split_first() {
            Some((reference, others)) => (Some(reference), others),
            None => (None, decoded),
        };
        Self {
            model: model.to_owned(),
            top_k,
            prompt_tokens,
            rows: decoded.iter().filter_map(row).collect(),
            against: others.iter().filter_map(|other| against(reference?, other)).collect(),
            complete: decoded.iter().all(|of| of.generated.is_some() && of.predicted.is_some()),
        }
    }
}

impl Divergence {
    /// Compares two attentions; nothing as long as one of them has something to do.
    fn new(reference: &Decoded, other: &Decoded, stretch_tokens: usize) -> Option<Self> {
        let (theirs, ours) = (reference.predicted.as_ref()?, other.predicted.as_ref()?);
        let texts = [&reference.generated, &other.generated];
        let [their_text, our_text] = texts.map(|generated| generated.as_ref().map(|g| &g.tokens));
        let same = their_text?.iter().zip(our_text?).take_while(|(a, b)| a == b).count();
        let departs = same < their_text?.len().min(our_text?.len());
        let lead = |of: &Predicted| f64::from(of.leads.get(same).copied().unwrap_or_default());
        let departure = departs.then(|| Departure {
            after_tokens: same,
            reference_lead: lead(theirs),
            lead: lead(ours),
        });
        let differences: Vec<f64> = (ours.log_probabilities.iter())
            .zip(&theirs.log_probabilities)
            .map(|(a, b)| f64::from((a - b).abs()))
            .collect();
        let agreed: Vec<f64> = (ours.likeliest.iter())
            .zip(&theirs.likeliest)
            .map(|(a, b)| if a == b { 100.0 } else { 0.0 })
            .collect();
        let known: Vec<f64> = theirs.log_probabilities.iter().copied().map(f64::from).collect();
        let stretch = |start: usize| {
            let end = (start + stretch_tokens).min(differences.len());
            Stretch {
                start,
                end,
                mean_difference: mean(&differences[start..end]),
                same_likeliest_percent: mean(&agreed[start..end]),
                reference_log_probability: mean(&known[start..end]),
            }
        };
        let (growth, deviation) = slope(&differences);
        let growth_interval = [growth - 1.96 * deviation, growth + 1.96 * deviation];
        Some(Self {
            attention: other.attention,
            against: reference.attention,
            departure,
            mean_difference: mean(&differences),
            same_likeliest_percent: mean(&agreed),
            growth_per_100_tokens: 100.0 * growth,
            growth_interval: growth_interval.map(|bound| 100.0 * bound),
            stretches: (0..differences.len()).step_by(stretch_tokens).map(stretch).collect(),
        })
    }
}

/// The mean; 0 of nothing.
#[expect(clippy::cast_precision_loss, reason = "counts become means of a few digits")]
fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len().max(1) as f64
}

/// Slope of the straight line that fits `numbers` at 0, 1, … best, and the standard deviation of it; 0 of fewer than three.
#[expect(clippy::cast_precision_loss, reason = "counts become a line of a few digits")]
fn slope(numbers: &[f64]) -> (f64, f64) {
    let count = numbers.len() as f64;
    if count < 3.0 {
        return (0.0, 0.0);
    }
    let (middle, height) = ((count - 1.0) / 2.0, mean(numbers));
    let places = || (0..numbers.len()).map(|place| place as f64 - middle);
    let width: f64 = places().map(|x| x * x).sum();
    let slope = places().zip(numbers).map(|(x, y)| x * y).sum::<f64>() / width;
    let rest: f64 = places().zip(numbers).map(|(x, y)| (y - height - slope * x).powi(2)).sum();
    (slope, (rest / (count - 2.0) / width).sqrt())
}

#[cfg(test)]
pub(crate) mod tests {
    use AttentionPolicy::{Full, Lfps};

    use super::*;

    fn predicted(log_probabilities: &[f32], likeliest: &[u32]) -> Predicted {
        Predicted {
            index: 0,
            log_probabilities: log_probabilities.to_vec(),
            likeliest: likeliest.to_vec(),
            leads: (0..10_u8).map(f32::from).take(likeliest.len()).collect(),
            decode_s: 0.1,
        }
    }

    fn decoded(attention: AttentionPolicy, tokens: &[u32], predicted: Predicted) -> Decoded {
        let generated = Generated {
            index: 0,
            tokens: tokens.to_vec(),
            decode_s: 0.004,
            link_bytes: 4.0 * 1024.0,
        };
        Decoded { attention, generated: Some(generated), predicted: Some(predicted) }
    }

    /// Five tokens; lfps departs after three.
    pub(crate) fn report() -> GenerationReport {
        let full = predicted(&[-0.5, -0.5, -0.5, -0.5, -0.5], &[1, 2, 3, 4, 5]);
        let lfps = predicted(&[-0.5, -0.6, -0.4, -1.5, -0.5], &[1, 2, 3, 9, 5]);
        let decoded =
            [decoded(Full, &[1, 2, 3, 4, 5], full), decoded(Lfps, &[1, 2, 3, 9, 8], lfps)];
        GenerationReport::new("tiny", 256, 4000, 2, &decoded, |tokens| format!("<{tokens:?}>"))
    }

    #[test]
    fn a_departure_is_where_texts_first_differ() {
        let report = report();
        assert!(report.complete);
        let lfps = &report.against[0];
        let departure = Departure { after_tokens: 3, reference_lead: 3.0, lead: 3.0 };
        assert_eq!((lfps.against, lfps.departure), (Full, Some(departure)));
        assert!((lfps.mean_difference - 0.24).abs() < 1e-6);
        assert!((lfps.same_likeliest_percent - 80.0).abs() < 1e-9);
    }

    #[test]
    fn stretches_cover_the_text_once() {
        let stretches = &report().against[0].stretches;
        let bounds: Vec<_> = stretches.iter().map(|stretch| (stretch.start, stretch.end)).collect();
        assert_eq!(bounds, [(0, 2), (2, 4), (4, 5)]);
        assert!((stretches[1].mean_difference - 0.55).abs() < 1e-6);
        assert!((stretches[1].same_likeliest_percent - 50.0).abs() < 1e-9);
        assert!((stretches[2].reference_log_probability + 0.5).abs() < 1e-6);
    }

    #[test]
    fn texts_of_which_one_ends_early_do_not_depart() {
        let predictions = || predicted(&[-0.5; 3], &[1, 2, 3]);
        let all = [decoded(Full, &[1, 2, 3], predictions()), decoded(Lfps, &[1, 2], predictions())];
        let report = GenerationReport::new("tiny", 1, 1, 100, &all, |_| String::new());
        assert_eq!(report.against[0].departure, None);
    }

    #[test]
    fn what_is_not_done_is_left_out() {
        let mut all = [
            decoded(Full, &[1], predicted(&[-0.5], &[1])),
            decoded(Lfps, &[1], predicted(&[], &[])),
        ];
        all[1].predicted = None;
        let report = GenerationReport::new("tiny", 1, 1, 100, &all, |_| String::new());
        assert_eq!((report.rows.len(), report.against.len(), report.complete), (2, 0, false));
        let nothing = GenerationReport::new("tiny", 1, 1, 100, &[], |_| String::new());
        assert!(nothing.rows.is_empty());
    }

    #[test]
    fn the_slope_of_a_line_is_found_exactly_and_that_of_noise_is_not_sure() {
        let line: Vec<f64> = (0..50).map(|x| 0.25 * f64::from(x) + 1.0).collect();
        let (found, deviation) = slope(&line);
        assert!((found - 0.25).abs() < 1e-12 && deviation < 1e-9);
        let noise: Vec<f64> = (0..50).map(|x| f64::from(x * 7 % 5)).collect();
        let (found, deviation) = slope(&noise);
        assert!(found.abs() < 2.0 * deviation, "{found} ± {deviation}");
    }
}
