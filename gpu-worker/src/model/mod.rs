//! The model: weights from a GGUF file and the forward pass up to the logits.
//!
//! [`ModelConfig`] reads a model's shape from the metadata alone; [`Transformer`] loads the weights and runs them. The
//! keys and values go to an [`Attention`](crate::attention::Attention): no KV cache, and so no limit on the positions,
//! lives here.
//!
//! # Threads
//!
//! On the CPU the forward pass runs on the threads that its caller has chosen ([`Pools`](crate::threads::Pools)), and may choose
//! anew for every chunk: a rayon pool for prefill, a team that spins for its next task for decode. The result does not
//! depend on them.
//!
//! candle's own threads come into play only for matrices in formats without kernels of ours (F32, F16, BF16, Q2_K, Q3_K):
//! a barrier pool of `CANDLE_NUM_THREADS` threads, the calling one among them (where it is unset: `RAYON_NUM_THREADS`,
//! then the physical cores). It is built once, at the first such product of the process, and its size cannot change
//! afterwards; its threads inherit the affinity of the thread that builds it and spin for
//! `CANDLE_BARRIER_POOL_SPIN_LIMIT` iterations (25,000 by default) before they sleep.

mod config;
mod error;
mod layer;
mod linear;
mod metadata;
mod ops;
mod rope;
mod tensors;
mod transformer;

pub use config::{Architecture, ModelConfig, RopeConfig, RopeScaling, RopeStyle};
pub use error::ModelError;
pub use transformer::{Logits, Transformer};
