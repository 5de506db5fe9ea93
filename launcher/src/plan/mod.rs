//! What a run will need, worked out before anything is started.

mod context;
mod memory;

pub use context::{Context, ContextRequest};
pub use memory::MemoryPlan;
