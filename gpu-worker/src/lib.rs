//! The process that computes: the model's forward pass, attention and sampling.

pub mod attention;
pub mod device;
pub mod engine;
pub mod gguf;
pub mod link;
pub mod matmul;
pub mod model;
pub mod record;
pub mod sampling;
pub mod serve;
pub mod threads;
