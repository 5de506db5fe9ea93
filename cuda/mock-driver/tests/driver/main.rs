//! Real cudarc code on the mock driver. The driver is found when a process starts, so each test runs a program in a process
//! of its own: this very binary, which then does what `program` is told to.

mod child;
mod conformance;
mod device;
mod kernels;
mod link;
mod memory;
mod streams;

use std::env;

/// What this process does if it is a child. A failed assertion fails the child, and so the test that started it.
#[test]
fn program() {
    let Ok(name) = env::var(child::PROGRAM) else { return };
    let programs = [
        conformance::PROGRAMS,
        device::PROGRAMS,
        kernels::PROGRAMS,
        link::PROGRAMS,
        memory::PROGRAMS,
        streams::PROGRAMS,
    ];
    let (_, run) =
        programs.into_iter().flatten().find(|(known, _)| *known == name).expect("a known program");
    run();
}
