//! The indexer's place: one core, taken before it allocates anything large.

use core_affinity::CoreId;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity};

/// A core that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot run on core {core}: this process may use {allowed:?}")]
pub struct PlacementError {
    /// The core that was asked for.
    pub core: u32,
    /// The cores that the process may use.
    pub allowed: Vec<u32>,
}

/// The cores that the calling thread may run on, as the kernel states them.
#[must_use]
pub fn allowed_cores() -> Vec<u32> {
    let Ok(set) = sched_getaffinity(None::<Pid>) else {
        return Vec::new();
    };
    (0..CpuSet::MAX_CPU)
        .filter(|&core| set.is_set(core))
        .filter_map(|c| c.try_into().ok())
        .collect()
}

/// Binds the calling thread, and those it starts later, to `core`; then asks the kernel whether it is so.
///
/// # Errors
/// [`PlacementError`] if the core does not exist or is not this process's to use.
pub fn pin(core: u32) -> Result<(), PlacementError> {
    let allowed = allowed_cores();
    let pinned = allowed.contains(&core)
        && core_affinity::set_for_current(CoreId { id: core as usize })
        && allowed_cores() == [core];
    if pinned { Ok(()) } else { Err(PlacementError { core, allowed }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_runs_on_its_core_alone() {
        let core = *allowed_cores().last().unwrap();
        std::thread::spawn(move || {
            pin(core).unwrap();
            assert_eq!(allowed_cores(), [core]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_core_that_does_not_exist_is_refused_with_those_that_do() {
        let allowed = allowed_cores();
        assert_eq!(pin(1000), Err(PlacementError { core: 1000, allowed: allowed.clone() }));
        assert_eq!(allowed_cores(), allowed);
    }
}
