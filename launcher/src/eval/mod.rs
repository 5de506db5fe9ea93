//! Whether answers stay right: prompts with known answers, scores, and what one attention changes against another.
//!
//! [`ruler`] makes the prompts of the RULER benchmark, [`jsonl`] reads prompts that others have made, [`results`] keeps
//! what the model answered, and [`paired`] compares two attentions prompt by prompt. Nothing here runs a model.

pub mod case;
pub mod generation;
pub mod jsonl;
pub mod paired;
pub mod perplexity;
mod random;
pub mod results;
pub mod ruler;
pub mod scoring;
pub mod summary;
