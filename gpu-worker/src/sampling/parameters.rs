//! What a user sets.

use serde::{Deserialize, Serialize};

use super::SamplingError;

/// How tokens are sampled. The default is greedy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingParameters {
    /// Divides the logits before the draw; 0 takes the likeliest token (greedy).
    pub temperature: f32,
    /// Keeps the `top_k` likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest likeliest tokens whose probabilities sum to at least `top_p`; 1 keeps all.
    pub top_p: f32,
    /// Keeps the tokens at least `min_p` times as probable as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Makes the tokens of the window less likely: positive logits are divided by it, negative ones multiplied; 1 changes
    /// nothing.
    pub repetition_penalty: f32,
    /// How many of the last tokens, those of the prompt among them, the penalty looks at.
    pub repetition_window: usize,
    /// Seeds the generator.
    pub seed: u64,
}

impl Default for SamplingParameters {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_window: 64,
            seed: 0,
        }
    }
}

impl SamplingParameters {
    /// Checks every parameter's range.
    ///
    /// # Errors
    ///
    /// Names the first parameter outside its range.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let check = |name, value: f32, allowed, ok: bool| {
            if ok {
                Ok(())
            } else {
                Err(SamplingError::Parameter { name, value: value.to_string(), allowed })
            }
        };
        let Self { temperature, top_p, min_p, repetition_penalty, .. } = *self;
        check(
            "temperature",
            temperature,
            "at least 0",
            temperature.is_finite() && temperature >= 0.0,
        )?;
        check("top-p", top_p, "above 0 and at most 1", top_p > 0.0 && top_p <= 1.0)?;
        check("min-p", min_p, "at least 0 and at most 1", (0.0..=1.0).contains(&min_p))?;
        check(
            "repetition-penalty",
            repetition_penalty,
            "above 0",
            repetition_penalty.is_finite() && repetition_penalty > 0.0,
        )
    }

    /// Whether the likeliest token is always taken.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_greedy() {
        let parameters = SamplingParameters::default();
        parameters.validate().unwrap();
        assert!(parameters.is_greedy());
    }

    #[test]
    fn names_the_parameter_that_is_out_of_range() {
        let default = SamplingParameters::default();
        for bad in [-0.1, f32::NAN, f32::INFINITY] {
            let cases = [
                ("temperature", SamplingParameters { temperature: bad, ..default }),
                ("top-p", SamplingParameters { top_p: bad, ..default }),
                ("min-p", SamplingParameters { min_p: bad, ..default }),
                ("repetition-penalty", SamplingParameters { repetition_penalty: bad, ..default }),
            ];
            for (name, parameters) in cases {
                let error = parameters.validate().unwrap_err();
                assert_eq!(error.kind(), "sampling_parameter_invalid");
                assert!(error.to_string().starts_with(name), "{error}");
            }
        }
        assert!(SamplingParameters { top_p: 0.0, ..default }.validate().is_err());
        assert!(SamplingParameters { repetition_penalty: 0.0, ..default }.validate().is_err());
        assert!(SamplingParameters { top_p: 1.1, ..default }.validate().is_err());
        assert!(SamplingParameters { min_p: 1.1, ..default }.validate().is_err());
    }
}
