//! Hindsight's CUDA kernels: their names and launch shapes, and, with the feature `fatbin`, their code.
//!
//! The source is in `kernels/`. All kernels are `extern "C"`; what each takes is said there, and which shapes they serve in
//! [`launch`]. With the feature `conformance` there is a suite that any device must pass.

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod launch;

/// All kernels as a fat binary: code for sm_80, sm_89 and sm_90, and PTX that drivers compile for later architectures.
/// `cuModuleLoadData` takes it as it is.
#[cfg(feature = "fatbin")]
pub static FATBIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));
