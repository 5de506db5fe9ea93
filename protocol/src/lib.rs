//! What Hindsight's processes agree on: the arena's layout, the rings and doorbells of the data plane, the messages of
//! the control plane, and the telemetry page.
//!
//! Everything that comes from a peer is untrusted: it is copied once, checked, and only the copy is used.

#[cfg(not(loom))]
pub mod arena;
#[cfg(not(loom))]
pub mod control;
#[cfg(not(loom))]
pub mod device;
#[cfg(not(loom))]
pub mod geometry;
#[cfg(not(loom))]
pub mod profile;
#[cfg(not(loom))]
pub mod records;
pub mod ring;
#[cfg(not(loom))]
pub mod scheduling;
mod sync;
#[cfg(not(loom))]
pub mod telemetry;
