//! Hindsight's CUDA kernels: their names and launch shapes, and, with the feature `fatbin`, their code.
//!
//! The source is in `kernels/`. All kernels are `extern "C"`; what each takes is said there and in [`launch`].

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod launch;
