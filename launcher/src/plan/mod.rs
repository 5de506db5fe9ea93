//! What a run will need, worked out before anything is started.

mod context;
mod cores;
mod memory;

pub use context::{Context, ContextRequest};
pub use cores::{CorePlan, CoreRequest};
pub use memory::{MemoryPlan, available_memory};
