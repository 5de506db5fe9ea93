//! Replaying an index over recorded attention, to see how good and how dear its selections are.
//!
//! A replay is a closed loop: history only ever sees the selections that the policy itself has made.

mod baselines;
mod cache;
mod engine;
mod report;
mod trace;

pub use cache::{CacheError, KvCache};
pub use engine::{ReplayPolicy, replay};
pub use report::ReplayReport;
pub use trace::{RecordedAttention, Trace, TraceError};
