//! Choosing the next token from the logits.
//!
//! The steps, in order: repetition penalty, top-k, top-p, min-p, temperature, draw. Truncation looks at the distribution
//! before the temperature, so that raising the temperature never lets in a token that top-p or min-p kept out.
//!
//! The result depends on the logits, the parameters and the seed alone: the generator is PCG-64, whose values are the
//! same on every platform, and every order is a total one.

mod candidates;
mod error;
mod parameters;
mod sampler;

pub use candidates::{Candidate, Candidates};
pub use error::SamplingError;
pub use parameters::SamplingParameters;
pub use sampler::Sampler;
