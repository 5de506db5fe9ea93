//! From a prompt to a text: prefill, then one decode step per token.
//!
//! The keys and values of a text stay when it has ended. If the next prompt begins alike, only the rest of it is read:
//! at least its last queries, for the index learns from them.

mod decode;
mod prefill;
mod score;
mod watched;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use hindsight_protocol::control::messages::{Generate, Generated, StopReason};
use hindsight_protocol::profile::Recorder;
use hindsight_protocol::records::AttentionPolicy;
use hindsight_protocol::telemetry::WorkerCounters;

#[cfg(feature = "cuda")]
pub(crate) use prefill::CHUNK_TOKENS;

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
    /// A token of the text to predict is not in the model's vocabulary.
    #[error("token {0} is not in the model's vocabulary")]
    NoSuchToken(u32),
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
            Self::NoSuchToken(_) => "no_such_token",
            Self::Sampling(error) => error.kind(),
            Self::Launcher(_) => "launcher_gone",
        }
    }
}

/// What happens while a text is generated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// So many tokens of the prompt have been read; those of a chunk at hand count by the layers that they have passed.
    Prefilled(usize),
    /// The next token of the text.
    Token(u32),
    /// How the next token of a given text was predicted.
    Scored {
        /// Natural logarithm of its probability.
        log_probability: f32,
        /// The likeliest token in its place.
        likeliest: u32,
        /// By how much the logarithm of the likeliest token's probability exceeds the next one's.
        lead: f32,
    },
}

/// Receives events; an error ends the generation.
pub type Listener<'l> = &'l mut (dyn FnMut(Event) -> Result<(), EngineError> + Send);

/// A model and the KV cache of the text that it works on.
#[derive(Debug)]
pub struct Engine<'a> {
    model: &'a Transformer,
    attention: ArenaAttention<'a>,
    pools: &'a Pools,
    counters: &'a WorkerCounters,
    /// The text whose keys and values the arena holds.
    held: Vec<u32>,
    /// Tokens that the arena holds at most.
    capacity: usize,
    /// What every text attends to, but for its policy and top-k.
    plan: Plan,
}

impl<'a> Engine<'a> {
    /// An engine that runs on `pools`, for texts of up to `capacity` tokens that attend as `plan` says, each with a policy and
    /// top-k of its own.
    #[must_use]
    pub fn new(
        model: &'a Transformer,
        attention: ArenaAttention<'a>,
        pools: &'a Pools,
        counters: &'a WorkerCounters,
        capacity: usize,
        plan: Plan,
    ) -> Self {
        let held = Vec::new();
        Self { model, attention, pools, counters, held, capacity, plan }
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
        let Generate { prompt, stretched_to, max_tokens, policy, top_k, .. } = request;
        let held = stretched_to.and_then(|to| usize::try_from(to).ok()).unwrap_or(0);
        let start = held.min(self.capacity).max(prompt.len());
        let began = Instant::now();
        let (more, attending) = (start - prompt.len() + *max_tokens as usize, (*policy, *top_k));
        let (logits, read) = self.read(prompt, more, attending, cancelled, listener)?;
        let Some(logits) = logits else { return Ok(read) };
        if start > prompt.len() {
            self.attention.stretch(prompt.len(), start)?;
        }
        let first = sampler.sample(&logits)?;
        let first_token_s = began.elapsed().as_secs_f64();
        let decoding = Instant::now();
        let (stop_reason, decode_steps) =
            self.decode(request, start, first, &mut sampler, cancelled, listener)?;
        let decode_s = decoding.elapsed().as_secs_f64();
        if start > prompt.len() {
            // What was decoded follows a text that nobody has read.
            self.held.truncate(prompt.len());
        }
        Ok(Generated { stop_reason, first_token_s, decode_s, decode_steps, ..read })
    }

    /// Reads a prompt, with room for `more` tokens after it, to be attended to as the policy and its top-k say. Returns the
    /// logits after its last token, none if it was cancelled, and how a generation went that ends there.
    fn read(
        &mut self,
        prompt: &[u32],
        more: usize,
        (policy, top_k): (AttentionPolicy, u32),
        cancelled: &AtomicBool,
        listener: Listener<'_>,
    ) -> Result<(Option<Vec<f32>>, Generated), EngineError> {
        let began = Instant::now();
        self.begin(prompt, more, policy, top_k)?;
        let prefilled_tokens = (prompt.len() - self.held.len()) as u64;
        let logits = self.prefill(prompt, cancelled, listener)?;
        let prefill_s = began.elapsed().as_secs_f64();
        let read = Generated {
            stop_reason: StopReason::Cancelled,
            prefilled_tokens,
            prefill_s,
            first_token_s: prefill_s,
            decode_s: 0.0,
            decode_steps: 0,
        };
        Ok((logits, read))
    }

    /// What records the worker's events.
    pub const fn recorder(&mut self) -> &mut Recorder {
        &mut self.attention.recorder
    }

    /// Makes room for a prompt and `more` tokens, and goes back to where the prompt departs from the text before.
    fn begin(
        &mut self,
        prompt: &[u32],
        more: usize,
        policy: AttentionPolicy,
        top_k: u32,
    ) -> Result<(), EngineError> {
        let Self { plan, capacity, .. } = *self;
        let shared = self.held.iter().zip(prompt).take_while(|(held, token)| held == token).count();
        let kept = shared.min(prompt.len().saturating_sub(plan.prompt_queries.max(1)));
        let plan = Plan { policy, top_k, ..plan };
        let room = prompt.len().saturating_add(more).min(capacity).max(prompt.len());
        self.attention.open(plan, kept, prompt.len(), room)?;
        self.held.truncate(kept);
        Ok(())
    }
}

fn is_cancelled(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Relaxed)
}
