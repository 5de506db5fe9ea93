//! The index over the KV cache: which keys a query shall attend to.

mod ahead;
mod audit;
pub mod bench;
mod clock;
mod exact;
mod index;
pub mod kernels;
mod lfps;
pub mod parameters;
pub mod placement;
pub mod replay;
pub mod residency;
mod scan;
pub mod selection;
pub mod serve;
pub mod sketch;
pub mod store;
mod topk;

pub use index::Index;
