//! The model: weights from a GGUF file and the forward pass up to the logits.
//!
//! [`ModelConfig`] reads a model's shape from the metadata alone; [`Transformer`] loads the weights and runs them. The
//! keys and values go to an [`Attention`](crate::attention::Attention): no KV cache, and so no limit on the positions,
//! lives here.
//!
//! # Threads
//!
//! On the CPU all parallel work runs on candle's barrier pool: `CANDLE_NUM_THREADS` threads, the calling one among them
//! (where it is unset: `RAYON_NUM_THREADS`, then the physical cores). The pool is built once, at the first operation of
//! the process, and lives as long as the process: its size cannot change afterwards, so prefill and decode share it. Its
//! threads inherit the affinity of the thread that builds it and spin for `CANDLE_BARRIER_POOL_SPIN_LIMIT` iterations
//! (25,000 by default) before they sleep. A process that wants `n` threads on chosen cores therefore starts with
//! `CANDLE_NUM_THREADS=n` in its environment and sets its affinity before it touches a tensor.

mod config;
mod error;
mod gguf;
mod layer;
mod linear;
mod ops;
mod rope;
mod transformer;

pub use config::{Architecture, ModelConfig, RopeConfig, RopeScaling, RopeStyle};
pub use error::ModelError;
pub use gguf::GgufFile;
pub use transformer::{Logits, Transformer};
