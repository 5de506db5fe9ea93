//! What a run tells its user: numbers for people, numbers for machines.

pub mod bench;
mod conformance;
mod doctor;
pub mod eval;
pub mod eval_page;
pub mod generation;
pub mod link;
pub(crate) mod page;
pub mod placement;
pub mod plot;
pub mod progress;
pub mod replay;
pub mod run;
pub mod speed;
pub mod spread;
pub mod top;
pub mod topology;
pub mod traffic;
