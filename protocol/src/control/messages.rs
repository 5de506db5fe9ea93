//! What launcher and children say to each other.
//!
//! The parameters of sampling and of the index belong to the worker and the indexer; they pass through here unread, as
//! type parameters.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::arena::Pages;
use crate::device::Device;
use crate::records::AttentionPolicy;
use crate::scheduling::Priority;

/// From the launcher to the worker. `Sampling` is the worker's sampling parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToWorker<Sampling> {
    /// The first message: load the model.
    Start {
        /// The model's GGUF file.
        model: PathBuf,
        /// Where to compute.
        device: Device,
        /// Blocks per (layer, KV head) that the device's block cache holds.
        cache_blocks: u32,
        /// Threads for prefill, during which the indexer's core has little to do.
        prefill_threads: u32,
        /// Cores of decode, one thread on each.
        decode_cores: Vec<u32>,
        /// The indexer's core, if decode may use it while the indexer sleeps.
        lent_core: Option<u32>,
        /// Layers, from the first, that attend to every key in contexts of up to `dense_layer_tokens`.
        dense_layers: u32,
        /// Tokens of a context up to which these layers attend to every key.
        dense_layer_tokens: u64,
        /// Contexts of up to so many tokens attend to every key.
        dense_tokens: u64,
        /// Whether the indexer is told which queries to expect.
        rehearses: bool,
        /// How many of the last prompt queries the indexer is shown.
        prompt_queries: u32,
        /// Name of the telemetry page.
        telemetry: String,
        /// File to record the worker's events in, if the run is profiled.
        profile: Option<PathBuf>,
    },
    /// Read a prompt and decode.
    Generate(Generate<Sampling>),
    /// Read a prompt and predict a given text.
    Score(Score),
    /// Stop decoding at the next token.
    Cancel,
    /// End.
    Shutdown,
}

/// One generation. What the prompt shares with the text before is not read again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generate<Sampling> {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// For measurements: keys and values of the prompt are repeated until there are so many tokens, as if they had been read.
    pub stretched_to: Option<u64>,
    /// Decode at most this many tokens.
    pub max_tokens: u32,
    /// Tokens that end the text.
    pub stop: Vec<u32>,
    /// Which keys to attend to.
    pub policy: AttentionPolicy,
    /// Keys that each KV head selects, besides sink and window.
    pub top_k: u32,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// One prediction of a given text: each of its tokens by a decode step after those before it, whatever the model would
/// have said itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    /// The prompt, as in [`Generate`].
    pub prompt: Vec<u32>,
    /// The text.
    pub text: Vec<u32>,
    /// Which keys to attend to.
    pub policy: AttentionPolicy,
    /// Keys that each KV head selects, besides sink and window.
    pub top_k: u32,
}

/// From the worker to the launcher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromWorker {
    /// The model is loaded.
    Ready,
    /// Prompt tokens read so far.
    Prefilled {
        /// So many.
        done: u64,
        /// Of so many.
        total: u64,
    },
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
    /// The generation or prediction has ended.
    Finished(Generated),
    /// The request or the worker failed; an error that ends the process is followed by its end.
    Failed(Failure),
}

/// How a generation went.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Generated {
    /// Why it ended.
    pub stop_reason: StopReason,
    /// Tokens of the prompt that were read; those before them were known from the text before.
    pub prefilled_tokens: u64,
    /// Seconds from the request to the end of prefill.
    pub prefill_s: f64,
    /// Seconds from the request to the first token.
    pub first_token_s: f64,
    /// Seconds of all decode steps.
    pub decode_s: f64,
    /// Decode steps.
    pub decode_steps: u64,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model ended the text.
    EndOfText,
    /// As many tokens as were asked for.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// The user stopped it.
    Cancelled,
}

/// From the launcher to the indexer. `Parameters` are the index's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToIndexer<Parameters> {
    /// The first message: take a core and serve.
    Start {
        /// The core to run on.
        core: u32,
        /// Whether the worker uses the core while the indexer sleeps.
        shares_core: bool,
        /// How much it comes before others on its core.
        priority: Priority,
        /// This indexer's turn as the owner of the block tables.
        epoch: u32,
        /// Blocks per (layer, KV head) that the worker's cache holds.
        cache_blocks: u32,
        /// The pages that slabs of the arena are taken in.
        pages: Pages,
        /// Parameters of the index.
        parameters: Parameters,
        /// Name of the telemetry page.
        telemetry: String,
        /// File to record the indexer's events in, if the run is profiled.
        profile: Option<PathBuf>,
    },
    /// End.
    Shutdown,
}

/// From the indexer to the launcher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromIndexer {
    /// The indexer serves.
    Ready {
        /// The cores that it may run on, as the system states them.
        cores: Vec<u32>,
        /// Name of the kernels in use.
        kernels: String,
    },
    /// The indexer failed and ends.
    Failed(Failure),
}

/// An error that crosses a process boundary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind, in snake_case.
    pub kind: String,
    /// What happened.
    pub message: String,
    /// The way out; may be empty.
    pub hint: String,
}

impl Failure {
    /// The kind of a priority that the system refuses: no fault of the process that asked for it.
    pub const PRIORITY_REFUSED: &'static str = "priority_refused";

    /// A failure without a known way out.
    #[must_use]
    pub fn new(kind: &str, message: impl ToString) -> Self {
        Self { kind: kind.to_owned(), message: message.to_string(), hint: String::new() }
    }

    /// A failure that no user can have caused.
    #[must_use]
    pub fn internal(error: impl ToString) -> Self {
        Self::new("internal", error)
    }
}
