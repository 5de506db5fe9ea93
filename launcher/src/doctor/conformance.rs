//! Whether a device computes what it must: the report that a bug report needs.

use std::time::Instant;

use hindsight_gpu_worker::device::conformance::{CASES, Case, KernelOutcome, Outcome, run};
use hindsight_gpu_worker::device::probe::{Version, built_for};
use hindsight_gpu_worker::device::{Backend, DeviceDescription, DeviceError};
use serde::Serialize;

use super::{Findings, examine};
use crate::error::{Error, Exit};
use crate::topology::Root;

/// What was checked on which device, and how it came out.
#[derive(Debug, Clone, Serialize)]
pub struct ConformanceReport {
    /// Version of the program.
    pub version: &'static str,
    /// The compute capability that it was built for, if it has CUDA.
    pub built_for: Option<Version>,
    /// What the system's kernel says it is.
    pub system: String,
    /// The device.
    #[serde(flatten)]
    pub device: DeviceDescription,
    /// What else is known of the machine.
    pub machine: Findings,
    /// Each of a GPU's kernels alone.
    pub kernels: Vec<KernelOutcome>,
    /// Whole texts.
    pub cases: Vec<CaseReport>,
}

/// How a case came out.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// The case.
    pub case: Case,
    /// Whether the device computed what it must.
    pub passed: bool,
    /// What was compared, unless the device failed.
    pub outcome: Option<Outcome>,
    /// How the device failed.
    pub error: Option<String>,
    /// How long it took.
    pub seconds: f64,
}

impl ConformanceReport {
    /// Runs all checks on a device; `progress` hears of each before it begins.
    ///
    /// # Errors
    /// The device cannot be opened, or loads no kernels.
    pub fn new(device: DeviceDescription, mut progress: impl FnMut(&str)) -> Result<Self, Error> {
        let backend = Backend::open(device.device).map_err(device_failed)?;
        let kernels = backend.check_kernels(&mut progress).map_err(device_failed)?;
        let cases = CASES.into_iter().map(|case| {
            progress(&case.to_string());
            let started = Instant::now();
            let outcome = run(&backend, case);
            CaseReport {
                case,
                passed: outcome.as_ref().is_ok_and(Outcome::passed),
                error: outcome.as_ref().err().map(ToString::to_string),
                outcome: outcome.ok(),
                seconds: started.elapsed().as_secs_f64(),
            }
        });
        let root = Root::machine();
        Ok(Self {
            version: env!("CARGO_PKG_VERSION"),
            built_for: built_for(),
            system: root.text("proc/version").unwrap_or_default(),
            kernels,
            cases: cases.collect(),
            device,
            machine: examine(&root),
        })
    }

    /// The exit code that tells whether all checks passed.
    #[must_use]
    pub fn exit(&self) -> Exit {
        let kernels = self.kernels.iter().all(|kernel| kernel.error.is_none());
        if kernels && self.cases.iter().all(|case| case.passed) {
            Exit::Success
        } else {
            Exit::Broken
        }
    }
}

/// The error of a device that can be used and fails.
pub(crate) fn device_failed(error: DeviceError) -> Error {
    let hint = error.hint();
    let error = Error::new(Exit::Device, error.kind(), error);
    if hint.is_empty() { error } else { error.with_hint(hint) }
}
