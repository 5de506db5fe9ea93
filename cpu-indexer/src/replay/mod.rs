//! Replaying an index over recorded attention, to see how good and how dear its selections are.
//!
//! A replay is a closed loop: history only ever sees the selections that the policy itself has made.

mod baselines;
mod cache;
mod engine;
mod eviction;
mod judge;
mod report;
mod trace;

pub use cache::{CacheError, KvCache};
pub use engine::{ReplayError, ReplayPolicy, replay};
pub use eviction::{BlockCaches, Eviction};
pub use report::{CacheReport, ReplayReport};
pub use trace::{RecordedAttention, Trace, TraceError};
