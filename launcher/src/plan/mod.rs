//! What a run will need, worked out before anything is started.

mod arena;
mod cache;
mod context;
mod device;
mod memory;

pub use arena::{ArenaRequest, PageWish};
pub use cache::CacheRequest;
pub use context::{Context, ContextRequest, TrainedContext};
pub use device::{ChosenDevice, DeviceWish, MeasuredOn, device_unavailable};
pub use memory::MemoryPlan;
