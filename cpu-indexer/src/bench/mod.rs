//! How long a step of the index takes, at any shape, over keys and queries that come from recorded attention.

mod bandwidth;
mod likeness;
mod measure;
mod numbers;
mod report;
mod scans;
mod shape;
mod workload;

pub use bandwidth::MemoryReader;
pub use measure::{BenchEvent, BenchPlan, measure};
pub use report::IndexBenchRow;
pub use shape::BenchShape;
pub use workload::{Workload, WorkloadError};
