//! A bounded queue from one process to another: one producer, one consumer, no lock.
//!
//! ```text
//! ┌ write index │ read index │ bell of the consumer │ bell of the producer ┐ each on 128 bytes of its own
//! └ slot 0: record length, record │ slot 1 │ …                             ┘
//! ```

mod doorbell;
#[cfg(not(loom))]
mod memory;
mod spsc;

pub use doorbell::{Doorbell, Patience, Watch};
#[cfg(not(loom))]
pub use memory::{Receiver, Ring, RingLayout, Sender};
pub use spsc::RingFault;
#[cfg(not(loom))]
pub(crate) use spsc::RingIndices;
