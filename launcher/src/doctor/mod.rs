//! What of this machine slows Hindsight down or stops it, and how to mend that.

mod conformance;
mod cuda;
mod gpu;
mod memory;
#[cfg(feature = "cuda")]
mod nvml;
mod processor;
mod system;
#[cfg(test)]
mod tests;

pub(crate) use conformance::device_failed;
pub use conformance::{CaseReport, ConformanceReport};
use serde::Serialize;

use crate::error::Exit;
use crate::topology::{Root, Topology};

/// How a check came out, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing to mend.
    Good,
    /// The system does not say.
    Unknown,
    /// Hindsight runs, but slower or with less than it could.
    Slower,
    /// Runs will fail.
    Broken,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What follows from it, if something should be mended.
    pub consequence: Option<String>,
    /// The command, or else the step, that mends it.
    pub mend: Option<String>,
}

impl Check {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        let found = found.into();
        Self { name, state: State::Good, found, consequence: None, mend: None }
    }

    fn unknown(name: &'static str, found: impl Into<String>) -> Self {
        Self { state: State::Unknown, ..Self::good(name, found) }
    }

    fn slower(
        name: &'static str,
        found: impl Into<String>,
        consequence: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self {
            state: State::Slower,
            consequence: Some(consequence.into()),
            mend: Some(mend.into()),
            ..Self::good(name, found)
        }
    }

    fn broken(
        name: &'static str,
        found: impl Into<String>,
        consequence: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self { state: State::Broken, ..Self::slower(name, found, consequence, mend) }
    }
}

/// All checks of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// The worst state of all checks.
    pub worst: State,
    /// The checks.
    pub checks: Vec<Check>,
}

impl Findings {
    /// The exit code that tells it.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self.worst {
            State::Good | State::Unknown => Exit::Success,
            State::Slower => Exit::Slower,
            State::Broken => Exit::Broken,
        }
    }
}

/// Examines a machine.
#[must_use]
pub fn examine(root: &Root) -> Findings {
    let topology = Topology::read(root);
    let mut checks = vec![
        processor::features(root),
        processor::cores(&topology),
        processor::quota(root, &topology),
        processor::governor(root, &topology),
        memory::room(root, &topology),
        memory::nodes(&topology),
        memory::balancing(root, &topology),
        memory::huge_pages(root),
        memory::transparent_huge_pages(root),
        system::shared_memory(root),
        system::locked_memory(root, &topology),
    ];
    checks.extend(gpu::all(root, &topology));
    if root.is_machine() {
        checks.extend(cuda::all(topology.gpus.len()));
        #[cfg(feature = "cuda")]
        checks.extend(nvml::all());
    }
    let worst = checks.iter().map(|check| check.state).max().unwrap_or(State::Unknown);
    Findings { worst, checks }
}
