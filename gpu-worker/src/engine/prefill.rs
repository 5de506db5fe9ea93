//! Reading a prompt.

use std::sync::atomic::AtomicBool;

use candle_core::Tensor;
use hindsight_protocol::profile::{Activity, Detail};

use super::watched::{Left, Watched};
use super::{Engine, EngineError, Event, Listener};
use crate::model::{Logits, ModelError};

/// Tokens that go through the model at once, at most: enough that weights are read rarely, few enough that
/// activations stay in the processor's caches.
pub(crate) const CHUNK_TOKENS: usize = 512;

impl Engine<'_> {
    /// Reads what is not held of the prompt in chunks of about equal length; returns the logits after its last token, or
    /// `None` if it was cancelled.
    pub(super) fn prefill(
        &mut self,
        prompt: &[u32],
        cancelled: &AtomicBool,
        listener: Listener<'_>,
    ) -> Result<Option<Vec<f32>>, EngineError> {
        let mut start = self.held.len();
        let rest = &prompt[start..];
        let chunks = rest.len().div_ceil(CHUNK_TOKENS).max(1);
        let chunk_tokens = rest.len().div_ceil(chunks).max(1);
        let mut logits = None;
        for chunk in rest.chunks(chunk_tokens) {
            let end = start + chunk.len();
            let wanted = if end == prompt.len() { Logits::Last } else { Logits::None };
            let since = self.recorder().now();
            let Self { model, attention, pools, .. } = self;
            let layers = model.config().layers;
            let mut watched = Watched::new(attention, layers, cancelled, listener);
            logits = match pools.prefill(|| model.forward(chunk, start, &mut watched, wanted)) {
                Ok(logits) => logits,
                Err(error) => match Left::because(error) {
                    Left::Cancelled => return Ok(None),
                    Left::Failed(error) => return Err(error),
                },
            };
            self.attention.publish(end)?;
            self.held.extend_from_slice(chunk);
            let bytes = (chunk.len() * self.attention.token_bytes()) as u64;
            let detail = Detail { position: start as u64, bytes, ..Detail::default() };
            self.recorder().record(Activity::Prefill, since, detail);
            self.counters.prefill_tokens.add(chunk.len() as u64);
            listener(Event::Prefilled(end))?;
            start = end;
        }
        let logits = logits.ok_or(ModelError::NoTokens)?;
        Ok(Some(to_vec(&logits)?))
    }
}

/// The logits of one position as a plain vector.
pub(super) fn to_vec(logits: &Tensor) -> Result<Vec<f32>, ModelError> {
    Ok(logits.flatten_all()?.to_vec1()?)
}
