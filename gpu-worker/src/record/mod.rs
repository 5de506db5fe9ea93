//! Recording attention: queries, keys and values of real decode steps, as a replay of the index needs them.
//!
//! The model runs in full attention in this one process, over memory of its own: nobody selects, so no indexer is needed.

mod attention;
mod cache;

use std::ops::ControlFlow;

use candle_core::Tensor;
use half::f16;

use crate::device::cpu::ShapeError;
use crate::model::{Logits, ModelError, Transformer};
use crate::sampling::{Sampler, SamplingError, SamplingParameters};
use crate::threads::Pools;
use attention::RecordingAttention;

/// Queries that are recorded of the prompt: those of its last tokens, as many as an index is seeded with.
pub const PROMPT_QUERIES: usize = 64;

/// Tokens that go through the model at once, at most.
const CHUNK_TOKENS: usize = 512;

/// What follows the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuation<'a> {
    /// These tokens, one at each step, whatever the model would have said.
    Text(&'a [u32]),
    /// What the model says, the likeliest token at each step.
    Greedy {
        /// Steps at most.
        steps: usize,
        /// Tokens that end the text; no step is taken with them.
        stop: &'a [u32],
    },
}

impl Continuation<'_> {
    fn steps(&self) -> usize {
        match self {
            Self::Text(tokens) => tokens.len(),
            Self::Greedy { steps, .. } => *steps,
        }
    }
}

/// What is to be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// The prompt's tokens.
    pub prompt: &'a [u32],
    /// The tokens of the steps.
    pub continuation: Continuation<'a>,
    /// Layers to record, counted from 0, ascending.
    pub layers: &'a [usize],
}

/// How far a recording has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many tokens of the prompt have been read.
    Prefilled(usize),
    /// So many steps have been taken.
    Stepped(usize),
}

/// What was recorded: 16-bit floats, row-major, of the recorded layers alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    /// Steps taken. The token of step `t` is at the position `prompt_tokens + t`, and sees all up to its own.
    pub steps: usize,
    /// What products of queries and keys are multiplied with.
    pub softmax_scale: f32,
    /// Rotated queries of the prompt's last tokens, [`PROMPT_QUERIES`] or all: `[tokens, layers, heads, head_dim]`.
    pub prompt_queries: Vec<f16>,
    /// Rotated queries of the steps: `[steps, layers, heads, head_dim]`.
    pub queries: Vec<f16>,
    /// Rotated keys: `[layers, kv_heads, prompt_tokens + steps, head_dim]`.
    pub keys: Vec<f16>,
    /// Values: `[layers, kv_heads, prompt_tokens + steps, head_dim]`.
    pub values: Vec<f16>,
}

/// Why nothing was recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The model failed, or a value left the range of 16-bit floats.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// No token could be chosen.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// The kernels do not serve this model's heads.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A layer that the model does not have, or one named out of order.
    #[error("layer {layer} cannot be recorded: the model has the layers 0 to {}, each to be named once, in order", layers - 1)]
    Layer {
        /// The layer.
        layer: usize,
        /// Layers of the model.
        layers: usize,
    },
    /// The model ended its text before the first step.
    #[error("the model has nothing to say after this prompt: no step was taken")]
    NoSteps,
    /// The caller wanted no more.
    #[error("the recording was cancelled")]
    Cancelled,
}

impl RecordError {
    /// The kind of error, in snake_case.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Model(error) => error.kind(),
            Self::Sampling(error) => error.kind(),
            Self::Shape(_) => "attention_failed",
            Self::Layer { .. } => "no_such_layer",
            Self::NoSteps => "no_steps",
            Self::Cancelled => "interrupted",
        }
    }
}

/// Runs `request` through `model` on the threads of `pools`, and keeps the attention of its layers.
///
/// `progress` is told after each chunk of the prompt and after each step, and may break off.
///
/// Takes, besides the recording, the memory of all layers' keys and values.
///
/// # Errors
/// [`RecordError`].
pub fn record(
    model: &Transformer,
    pools: &Pools,
    request: &Request<'_>,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Recording, RecordError> {
    let Request { prompt, continuation, layers } = *request;
    check_layers(layers, model.config().layers)?;
    let capacity = prompt.len() + continuation.steps();
    let first_query = prompt.len().saturating_sub(PROMPT_QUERIES);
    let mut attention =
        RecordingAttention::new(model.config(), pools, layers, capacity, first_query)?;
    let mut tell = |reached| match progress(reached) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(RecordError::Cancelled),
    };

    let mut logits = None;
    for (chunk, tokens) in prompt.chunks(CHUNK_TOKENS).enumerate() {
        let start = chunk * CHUNK_TOKENS;
        let end = start + tokens.len();
        let wanted = if end == prompt.len() { Logits::Last } else { Logits::None };
        logits = pools.prefill(|| model.forward(tokens, start, &mut attention, wanted))?;
        tell(Progress::Prefilled(end))?;
    }
    let mut logits = logits.ok_or(ModelError::NoTokens)?;

    let mut sampler = Sampler::new(SamplingParameters::default())?;
    let mut steps = 0;
    while steps < continuation.steps() {
        let token = match continuation {
            Continuation::Text(tokens) => tokens[steps],
            Continuation::Greedy { stop, .. } => {
                let token = sampler.sample(&to_vec(&logits)?)?;
                if stop.contains(&token) {
                    break;
                }
                token
            }
        };
        let position = prompt.len() + steps;
        logits = pools
            .decode(|| model.forward(&[token], position, &mut attention, Logits::Last))?
            .ok_or(ModelError::NoTokens)?;
        steps += 1;
        tell(Progress::Stepped(steps))?;
    }
    if steps == 0 {
        return Err(RecordError::NoSteps);
    }
    Ok(attention.finish(prompt.len(), steps))
}

fn check_layers(layers: &[usize], of_model: usize) -> Result<(), RecordError> {
    let mut least = 0;
    for &layer in layers {
        if layer < least || layer >= of_model {
            return Err(RecordError::Layer { layer, layers: of_model });
        }
        least = layer + 1;
    }
    Ok(())
}

fn to_vec(logits: &Tensor) -> Result<Vec<f32>, ModelError> {
    Ok(logits.flatten_all()?.to_vec1()?)
}
