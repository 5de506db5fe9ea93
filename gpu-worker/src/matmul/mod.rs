//! Quantized matrix multiplication on the CPU: `out[m, n] = x[m, k] · Wᵀ` for weights `W[n, k]` in the GGUF block
//! formats.
//!
//! * [`QuantMatrix`] holds the weights repacked into panels of 16 rows (`layout`), in as many bytes as the file.
//! * [`Activations`] holds the input rows as 8-bit codes, quantized once for all matrices that read them.
//! * [`Parallel`](crate::threads::Parallel) says who does the work: the calling thread, or a pool.
//!
//! # Numbers
//!
//! Activations are quantized exactly as candle and llama.cpp do for the weight's format, and the products of codes
//! are summed as integers, so a result differs from theirs only by the order of the floating-point sums over blocks.
//! That order depends on neither the number of rows in the batch nor the number of threads: a row gives the same bits
//! in a prefill as in a decode step.
//!
//! # Instruction sets
//!
//! AVX-512 with VNNI, AVX2 with FMA, and plain Rust, chosen at run time. The two vector paths give the same bits.

mod activations;
mod dequantize;
mod format;
mod kernels;
mod layout;
mod matrix;
mod pack;
mod storage;

pub use activations::Activations;
pub use matrix::{MatrixError, QuantMatrix, multiply_each};

#[cfg(test)]
mod tests;
