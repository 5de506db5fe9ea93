//! A sequence's sampler: parameters, generator and the tokens seen.

use std::collections::VecDeque;

use rand_pcg::Pcg64;
use rand_pcg::rand_core::{Rng, SeedableRng};

use super::candidates::{likeliest, penalize};
use super::{Candidates, SamplingError, SamplingParameters};

/// Chooses the tokens of one sequence.
///
/// Two samplers of equal parameters that are given the same logits and tokens choose the same tokens.
#[derive(Debug, Clone)]
pub struct Sampler {
    parameters: SamplingParameters,
    generator: Pcg64,
    /// The last tokens, oldest first, no more than the penalty looks at.
    window: VecDeque<u32>,
}

impl Sampler {
    /// A sampler at the start of a sequence.
    ///
    /// # Errors
    ///
    /// As [`SamplingParameters::validate`].
    pub fn new(parameters: SamplingParameters) -> Result<Self, SamplingError> {
        parameters.validate()?;
        Ok(Self {
            generator: Pcg64::seed_from_u64(parameters.seed),
            window: VecDeque::new(),
            parameters,
        })
    }

    /// The parameters.
    #[must_use]
    pub fn parameters(&self) -> &SamplingParameters {
        &self.parameters
    }

    /// Takes note of a token that was not chosen here: the prompt's, in order.
    pub fn observe(&mut self, token: u32) {
        if !self.penalizes() {
            return;
        }
        if self.window.len() == self.parameters.repetition_window {
            self.window.pop_front();
        }
        self.window.push_back(token);
    }

    /// Chooses the next token from the logits of the whole vocabulary, and takes note of it.
    ///
    /// # Errors
    ///
    /// There are no logits, one is NaN or plus infinity, or all are minus infinity.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, SamplingError> {
        let token = if self.window.is_empty() {
            self.choose(logits)?
        } else {
            let mut seen: Vec<u32> = self.window.iter().copied().collect();
            seen.sort_unstable();
            seen.dedup();
            let mut logits = logits.to_vec();
            penalize(&mut logits, seen, self.parameters.repetition_penalty);
            self.choose(&logits)?
        };
        self.observe(token);
        Ok(token)
    }

    fn choose(&mut self, logits: &[f32]) -> Result<u32, SamplingError> {
        if self.parameters.is_greedy() {
            return likeliest(logits);
        }
        let mut candidates = Candidates::new(logits)?;
        candidates.top_k(self.parameters.top_k);
        candidates.top_p(self.parameters.top_p);
        candidates.min_p(self.parameters.min_p);
        Ok(candidates.draw(self.parameters.temperature, self.uniform()))
    }

    /// A number in `[0, 1)`: the generator's upper 53 bits.
    fn uniform(&mut self) -> f64 {
        (self.generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn penalizes(&self) -> bool {
        self.parameters.repetition_penalty != 1.0 && self.parameters.repetition_window > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(parameters: SamplingParameters) -> Sampler {
        Sampler::new(parameters).unwrap()
    }

    fn warm() -> SamplingParameters {
        SamplingParameters { temperature: 1.0, seed: 7, ..SamplingParameters::default() }
    }

    /// How often each of four tokens is drawn in 40,000 draws.
    fn frequencies(parameters: SamplingParameters, logits: &[f32; 4]) -> [f64; 4] {
        let mut sampler = sampler(parameters);
        let mut counts = [0.0; 4];
        for _ in 0..40_000 {
            counts[sampler.sample(logits).unwrap() as usize] += 1.0 / 40_000.0;
        }
        counts
    }

    fn assert_frequencies(parameters: SamplingParameters, weights: [f64; 4]) {
        let logits = [0.1f32, 0.2, 0.3, 0.4].map(f32::ln);
        let sum: f64 = weights.iter().sum();
        for (found, weight) in frequencies(parameters, &logits).into_iter().zip(weights) {
            assert!(
                (found - weight / sum).abs() < 0.01,
                "{parameters:?}: {found} against {}",
                weight / sum
            );
        }
    }

    #[test]
    fn draws_follow_the_distribution() {
        assert_frequencies(warm(), [0.1, 0.2, 0.3, 0.4]);
        assert_frequencies(
            SamplingParameters { temperature: 0.5, ..warm() },
            [0.01, 0.04, 0.09, 0.16],
        );
        assert_frequencies(SamplingParameters { top_k: 3, ..warm() }, [0.0, 0.2, 0.3, 0.4]);
        assert_frequencies(SamplingParameters { top_p: 0.6, ..warm() }, [0.0, 0.0, 0.3, 0.4]);
        assert_frequencies(SamplingParameters { min_p: 0.4, ..warm() }, [0.0, 0.2, 0.3, 0.4]);
        assert_frequencies(
            SamplingParameters { top_k: 2, temperature: 0.5, ..warm() },
            [0.0, 0.0, 0.09, 0.16],
        );
    }

    #[test]
    fn truncation_comes_before_temperature() {
        let hot = SamplingParameters { temperature: 100.0, top_p: 0.6, ..warm() };
        assert_frequencies(hot, [0.0, 0.0, 0.5, 0.5]);
    }

    #[test]
    fn the_seed_alone_decides() {
        let logits: Vec<f32> = (0..1000).map(|i| (i % 17) as f32 / 4.0).collect();
        let draw = |seed| {
            let mut sampler = sampler(SamplingParameters { seed, top_p: 0.9, ..warm() });
            (0..20).map(|_| sampler.sample(&logits).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    /// Guards against a change of the generator or of the order of the steps: seeds in users' notes would mean something else.
    #[test]
    fn seeds_keep_their_meaning() {
        let mut sampler = sampler(SamplingParameters { seed: 42, ..warm() });
        let drawn: Vec<u32> = (0..8).map(|_| sampler.sample(&[0.0; 1000]).unwrap()).collect();
        assert_eq!(drawn, [226, 239, 760, 527, 970, 375, 187, 524]);
    }

    #[test]
    fn greedy_ignores_the_seed_and_the_truncations() {
        let logits = [0.0, 2.0, 2.0, 1.0];
        for seed in 0..5 {
            let parameters =
                SamplingParameters { seed, top_k: 3, min_p: 0.5, ..SamplingParameters::default() };
            assert_eq!(sampler(parameters).sample(&logits), Ok(1));
        }
    }

    #[test]
    fn a_penalty_reaches_as_far_as_its_window() {
        let logits = [3.0, 2.9, 2.8];
        let parameters = SamplingParameters {
            repetition_penalty: 1.5,
            repetition_window: 2,
            ..SamplingParameters::default()
        };
        let mut greedy = sampler(parameters);
        let chosen: Vec<u32> = (0..6).map(|_| greedy.sample(&logits).unwrap()).collect();
        assert_eq!(chosen, [0, 1, 2, 0, 1, 2]);

        let mut prompted = sampler(parameters);
        prompted.observe(0);
        assert_eq!(prompted.sample(&logits), Ok(1));
    }

    #[test]
    fn a_token_seen_twice_is_penalized_once() {
        let parameters =
            SamplingParameters { repetition_penalty: 1.5, ..SamplingParameters::default() };
        let mut greedy = sampler(parameters);
        greedy.observe(0);
        greedy.observe(0);
        assert_eq!(greedy.sample(&[3.0, 1.9]), Ok(0));
    }

    #[test]
    fn a_damaged_model_is_an_error() {
        for parameters in [SamplingParameters::default(), warm()] {
            let error = sampler(parameters).sample(&[0.0, f32::NAN]).unwrap_err();
            assert_eq!(error.kind(), "logits_not_finite");
        }
    }
}
