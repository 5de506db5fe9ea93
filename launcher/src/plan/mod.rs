//! What a run will need, worked out before anything is started.

mod arena;
mod context;
mod memory;

pub use arena::{ArenaRequest, PageWish};
pub use context::{Context, ContextRequest, TrainedContext};
pub use memory::MemoryPlan;
