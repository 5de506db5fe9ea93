//! Predicting a given text, token by token.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use hindsight_protocol::control::messages::{Generated, Score, StopReason};

use super::{Engine, EngineError, Event, Listener, is_cancelled};

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
        let attending = (*policy, *top_k);
        let (logits, read) = self.read(prompt, text.len(), attending, cancelled, listener)?;
        let Some(mut logits) = logits else { return Ok(read) };
        let decoding = Instant::now();
        let mut decode_steps = 0;
        let mut stop_reason = StopReason::MaxTokens;
        for (at, &token) in text.iter().enumerate() {
            listener(prediction(&logits, token)?)?;
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
        let decode_s = decoding.elapsed().as_secs_f64();
        Ok(Generated { stop_reason, decode_s, decode_steps, ..read })
    }
}

/// How `token` was predicted.
fn prediction(logits: &[f32], token: u32) -> Result<Event, EngineError> {
    let logit = *logits.get(token as usize).ok_or(EngineError::NoSuchToken(token))?;
    let (mut likeliest, mut largest, mut second) = (0, f32::NEG_INFINITY, f32::NEG_INFINITY);
    for (id, &logit) in (0..).zip(logits) {
        if logit > largest {
            (likeliest, second, largest) = (id, largest, logit);
        } else {
            second = second.max(logit);
        }
    }
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
    #[expect(clippy::cast_possible_truncation, reason = "a logarithm of the vocabulary's size")]
    let log_sum = sum.ln() as f32;
    let log_probability = logit - largest - log_sum;
    Ok(Event::Scored { log_probability, likeliest, lead: largest - second })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(logits: &[f32], token: u32) -> (f32, u32, f32) {
        match prediction(logits, token).unwrap() {
            Event::Scored { log_probability, likeliest, lead } => {
                (log_probability, likeliest, lead)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn predictions_are_log_probabilities() {
        let logits = [1.0, 3.0, 2.0, 3.0];
        let total: f32 = (0..4).map(|token| scored(&logits, token).0.exp()).sum();
        assert!((total - 1.0).abs() < 1e-6);
        let (first, likeliest, lead) = scored(&logits, 0);
        assert_eq!((likeliest, lead), (1, 0.0));
        assert!((scored(&logits, 2).0 - first - 1.0).abs() < 1e-6);
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let (log, likeliest, lead) = scored(&[1000.0, 999.0], 1);
        assert!((log + 1.0 + (1.0 + (-1.0_f32).exp()).ln()).abs() < 1e-5);
        assert_eq!((likeliest, lead), (0, 1.0));
    }

    #[test]
    fn a_token_beyond_the_vocabulary_is_an_error() {
        assert!(matches!(prediction(&[0.0; 3], 3), Err(EngineError::NoSuchToken(3))));
    }
}
