//! Predicting a given text, token by token.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use hindsight_protocol::control::messages::{Generated, Score, StopReason};

use super::{Engine, EngineError, Event, Listener, cancelled_in_prefill, is_cancelled};

impl Engine<'_> {
    /// Reads the prompt, and then gives the model the text token by token, each in a decode step, to see how it was
    /// predicted.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn score(
        &mut self,
        request: &Score,
        cancelled: &AtomicBool,
        listener: Listener<'_>,
    ) -> Result<Generated, EngineError> {
        let Score { prompt, text, policy, top_k } = request;
        let began = Instant::now();
        self.begin(prompt, text.len(), *policy, *top_k)?;
        let prefilled_tokens = (prompt.len() - self.held.len()) as u64;
        let logits = self.prefill(prompt, cancelled, listener)?;
        let prefill_s = began.elapsed().as_secs_f64();
        let Some(mut logits) = logits else {
            return Ok(cancelled_in_prefill(prefilled_tokens, prefill_s));
        };
        let decoding = Instant::now();
        let mut decode_steps = 0;
        let mut stop_reason = StopReason::MaxTokens;
        for (at, &token) in text.iter().enumerate() {
            let (log_probability, likeliest) = prediction(&logits, token)?;
            listener(Event::Scored { log_probability, likeliest })?;
            if at + 1 == text.len() {
                break;
            }
            let position = prompt.len() + at;
            if position == self.capacity {
                stop_reason = StopReason::ContextFull;
                break;
            }
            if is_cancelled(cancelled) {
                stop_reason = StopReason::Cancelled;
                break;
            }
            let began = Instant::now();
            logits = self.logits(token, position)?;
            self.count_step(began);
            decode_steps += 1;
        }
        Ok(Generated {
            stop_reason,
            prefilled_tokens,
            prefill_s,
            first_token_s: prefill_s,
            decode_s: decoding.elapsed().as_secs_f64(),
            decode_steps,
        })
    }
}

/// Logarithm of the probability of `token`, and the likeliest token.
fn prediction(logits: &[f32], token: u32) -> Result<(f32, u32), EngineError> {
    let logit = *logits.get(token as usize).ok_or(EngineError::NoSuchToken(token))?;
    let (mut likeliest, mut largest) = (0, f32::NEG_INFINITY);
    for (id, &logit) in (0..).zip(logits) {
        if logit > largest {
            (likeliest, largest) = (id, logit);
        }
    }
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
    #[expect(clippy::cast_possible_truncation, reason = "a logarithm of the vocabulary's size")]
    let log_sum = sum.ln() as f32;
    Ok((logit - largest - log_sum, likeliest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predictions_are_log_probabilities() {
        let logits = [1.0, 3.0, 2.0, 3.0];
        let total: f32 = (0..4).map(|token| prediction(&logits, token).unwrap().0.exp()).sum();
        assert!((total - 1.0).abs() < 1e-6);
        let (first, likeliest) = prediction(&logits, 0).unwrap();
        assert_eq!(likeliest, 1);
        assert!((prediction(&logits, 2).unwrap().0 - first - 1.0).abs() < 1e-6);
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let (log, likeliest) = prediction(&[1000.0, 999.0], 1).unwrap();
        assert!((log + 1.0 + (1.0 + (-1.0_f32).exp()).ln()).abs() < 1e-5 && likeliest == 0);
    }

    #[test]
    fn a_token_beyond_the_vocabulary_is_an_error() {
        assert!(matches!(prediction(&[0.0; 3], 3), Err(EngineError::NoSuchToken(3))));
    }
}
