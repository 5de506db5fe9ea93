//! One step per token.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use hindsight_protocol::control::messages::{Generate, StopReason};

use hindsight_protocol::profile::{Activity, Detail};

use super::prefill::to_vec;
use super::{Engine, EngineError, Event, Listener, is_cancelled};
use crate::model::{Logits, ModelError};
use crate::sampling::{Sampler, SamplingParameters};

impl Engine<'_> {
    /// Decodes from the first token on, which stands at `start`; returns why it ended, and how many steps it took.
    pub(super) fn decode(
        &mut self,
        request: &Generate<SamplingParameters>,
        start: usize,
        first: u32,
        sampler: &mut Sampler,
        cancelled: &AtomicBool,
        listener: Listener<'_>,
    ) -> Result<(StopReason, u64), EngineError> {
        let mut token = first;
        let mut steps = 0;
        loop {
            if request.stop.contains(&token) {
                return Ok((StopReason::EndOfText, steps));
            }
            listener(Event::Token(token))?;
            if steps + 1 >= u64::from(request.max_tokens) {
                return Ok((StopReason::MaxTokens, steps));
            }
            let position = start + steps as usize;
            if position == self.capacity {
                return Ok((StopReason::ContextFull, steps));
            }
            if is_cancelled(cancelled) {
                return Ok((StopReason::Cancelled, steps));
            }
            token = self.step(token, position, sampler)?;
            steps += 1;
        }
    }

    fn step(
        &mut self,
        token: u32,
        position: usize,
        sampler: &mut Sampler,
    ) -> Result<u32, EngineError> {
        let (began, since) = (Instant::now(), self.recorder().now());
        let logits = self.logits(token, position)?;
        let (sampling, since_sampling) = (Instant::now(), self.recorder().now());
        let next = sampler.sample(&logits)?;
        self.counters.sampling_ns.add(nanoseconds(sampling));
        let detail = Detail { position: position as u64, ..Detail::default() };
        self.recorder().record(Activity::Sample, since_sampling, detail);
        self.recorder().record(Activity::Step, since, detail);
        self.count_step(began);
        Ok(next)
    }

    /// The logits after `token`, which stands at `position`, the end of the text held.
    pub(super) fn logits(&mut self, token: u32, position: usize) -> Result<Vec<f32>, EngineError> {
        let Self { model, attention, pools, .. } = self;
        let logits = pools
            .decode(|| model.forward(&[token], position, attention, Logits::Last))?
            .ok_or(ModelError::NoTokens)?;
        self.attention.publish(position + 1)?;
        self.held.push(token);
        Ok(to_vec(&logits)?)
    }

    pub(super) fn count_step(&self, began: Instant) {
        self.counters.decode_tokens.add(1);
        self.counters.decode_ns.add(nanoseconds(began));
        self.counters.helper_stalls.add(self.pools.team().take_stalls());
    }
}

/// Nanoseconds since a moment.
fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
