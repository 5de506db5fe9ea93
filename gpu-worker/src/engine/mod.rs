//! From a prompt to a text: prefill, then one decode step per token.

mod decode;
mod prefill;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use hindsight_protocol::control::messages::{Generate, Generated, StopReason};
use hindsight_protocol::telemetry::WorkerCounters;

use crate::attention::arena::{ArenaAttention, ArenaAttentionError, Plan};
use crate::model::{ModelError, Transformer};
use crate::sampling::{Sampler, SamplingError, SamplingParameters};
use crate::threads::Pools;

/// What ends a generation that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The model failed, or the attention that it was given.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The KV cache failed.
    #[error(transparent)]
    Attention(#[from] ArenaAttentionError),
    /// No token could be chosen.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// There is nobody to tell about it.
    #[error("the launcher does not listen: {0}")]
    Launcher(String),
}

impl EngineError {
    /// The kind of error, in snake_case.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Model(error) => error.kind(),
            Self::Attention(_) => "attention_failed",
            Self::Sampling(error) => error.kind(),
            Self::Launcher(_) => "launcher_gone",
        }
    }
}

/// What happens while a text is generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// So many tokens of the prompt have been read.
    Prefilled(usize),
    /// The next token of the text.
    Token(u32),
}

/// Receives events; an error ends the generation.
pub type Listener<'l> = &'l mut dyn FnMut(Event) -> Result<(), EngineError>;

/// A model and the KV cache of the text that it works on.
#[derive(Debug)]
pub struct Engine<'a> {
    model: &'a Transformer,
    attention: ArenaAttention<'a>,
    pools: &'a Pools,
    counters: &'a WorkerCounters,
    /// Tokens that the arena holds.
    capacity: usize,
    dense_layers: usize,
    prompt_queries: usize,
}

impl<'a> Engine<'a> {
    /// An engine that runs on `pools`, for texts of up to `capacity` tokens, whose first `dense_layers` layers attend to every key.
    #[must_use]
    pub fn new(
        model: &'a Transformer,
        attention: ArenaAttention<'a>,
        pools: &'a Pools,
        counters: &'a WorkerCounters,
        capacity: usize,
        dense_layers: usize,
        prompt_queries: usize,
    ) -> Self {
        Self { model, attention, pools, counters, capacity, dense_layers, prompt_queries }
    }

    /// Reads the prompt and decodes until a stop token, the token limit, the end of the context, or `cancelled`.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn generate(
        &mut self,
        request: &Generate<SamplingParameters>,
        cancelled: &AtomicBool,
        listener: Listener<'_>,
    ) -> Result<Generated, EngineError> {
        let mut sampler = Sampler::new(request.sampling)?;
        request.prompt.iter().for_each(|&token| sampler.observe(token));
        let plan = Plan {
            policy: request.policy,
            top_k: request.top_k,
            dense_layers: self.dense_layers,
            prompt_queries: self.prompt_queries,
        };
        let prompt_tokens = request.prompt.len();
        let room = prompt_tokens.saturating_add(request.max_tokens as usize).min(self.capacity);
        self.attention.open(plan, prompt_tokens, room.max(prompt_tokens))?;
        let outcome = self.run(request, &mut sampler, cancelled, listener);
        // A failure of the generation says more than one of the closing that follows from it.
        let closed = self.attention.close();
        let generated = outcome?;
        closed?;
        Ok(generated)
    }

    fn run(
        &mut self,
        request: &Generate<SamplingParameters>,
        sampler: &mut Sampler,
        cancelled: &AtomicBool,
        listener: Listener<'_>,
    ) -> Result<Generated, EngineError> {
        let began = Instant::now();
        let logits = self.prefill(&request.prompt, cancelled, listener)?;
        let prefill_s = began.elapsed().as_secs_f64();
        let Some(logits) = logits else {
            return Ok(Generated {
                stop_reason: StopReason::Cancelled,
                prefill_s,
                first_token_s: prefill_s,
                decode_s: 0.0,
                decode_steps: 0,
            });
        };
        let first = sampler.sample(&logits)?;
        let first_token_s = began.elapsed().as_secs_f64();
        let decoding = Instant::now();
        let (stop_reason, decode_steps) =
            self.decode(request, first, sampler, cancelled, listener)?;
        let decode_s = decoding.elapsed().as_secs_f64();
        Ok(Generated { stop_reason, prefill_s, first_token_s, decode_s, decode_steps })
    }
}

fn is_cancelled(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Relaxed)
}
