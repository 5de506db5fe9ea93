//! What was checked on a device, for people and bug reports.

use std::fmt;

use hindsight_gpu_worker::device::conformance::KernelOutcome;

use crate::doctor::{CaseReport, ConformanceReport};

impl fmt::Display for ConformanceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hindsight {}", self.version)?;
        if let Some(version) = self.built_for {
            write!(f, ", built for compute capability {version}")?;
        }
        writeln!(f, ", on {}", self.system)?;
        writeln!(f, "{}: {}\n", self.device.device, self.device.name)?;
        for KernelOutcome { kernel, cases, error } in &self.kernels {
            match error {
                None => writeln!(f, "passed  kernel {kernel}: {cases} cases")?,
                Some(error) => writeln!(f, "FAILED  kernel {kernel}: {error}")?,
            }
        }
        self.cases.iter().try_for_each(|case| writeln!(f, "{case}"))?;
        let passed = self.cases.iter().filter(|case| case.passed).count()
            + self.kernels.iter().filter(|kernel| kernel.error.is_none()).count();
        let checks = self.cases.len() + self.kernels.len();
        writeln!(f, "\n{passed} of {checks} checks passed on {}\n", self.device.name)?;
        write!(f, "{}", self.machine)
    }
}

impl fmt::Display for CaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.passed { "passed" } else { "FAILED" };
        write!(f, "{state}  {} ({:.1} s)", self.case, self.seconds)?;
        if let Some(outcome) = &self.outcome {
            write!(
                f,
                "\n        {} results, largest error {:.1e}, {} stored wrongly, {} bytes of misses",
                outcome.results, outcome.worst_error, outcome.wrong_stored, outcome.miss_bytes
            )?;
        }
        self.error.iter().try_for_each(|error| write!(f, "\n        {error}"))
    }
}
