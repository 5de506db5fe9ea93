//! The kernels' own suite on this GPU: each kernel alone, over many shapes, against a scalar reference.

use std::sync::Arc;

use cudarc::driver::CudaStream;
use hindsight_cuda::conformance::{Check, DriverDevice};

use super::error::CudaError;
use super::kernels::load_module;
use crate::device::conformance::KernelOutcome;

/// Runs all checks on the GPU that `stream` belongs to; `progress` hears of each before it begins.
///
/// # Errors
/// [`CudaError`] if the kernels cannot be loaded.
pub(in crate::device) fn run(
    stream: &Arc<CudaStream>,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<KernelOutcome>, CudaError> {
    let mut device = DriverDevice::new(Arc::clone(stream), load_module(stream.context())?);
    let run = |check: Check| {
        let kernel = check.to_string();
        progress(&kernel);
        match check.run(&mut device) {
            Ok(cases) => KernelOutcome { kernel, cases, error: None },
            Err(failure) => KernelOutcome { kernel, cases: 0, error: Some(failure.to_string()) },
        }
    };
    Ok(Check::ALL.map(run).into())
}
