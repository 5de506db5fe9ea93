//! What goes wrong on a GPU.

use cudarc::driver::{CudaEvent, CudaStream, DriverError};
use hindsight_cuda::launch::UnsupportedShape;
use hindsight_protocol::arena::ArenaError;

use super::plan::MemoryPlan;

/// What stops a GPU.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// The driver refused.
    #[error("the GPU's driver cannot {action}: {source}")]
    Driver {
        /// What was tried.
        action: &'static str,
        /// The driver's answer.
        source: DriverError,
    },
    /// The kernels do not serve the model's shape.
    #[error(transparent)]
    Shape(#[from] UnsupportedShape),
    /// What is needed is more than is free.
    #[error("{plan}; {free} bytes are free")]
    Memory {
        /// What is needed.
        plan: Box<MemoryPlan>,
        /// Free bytes of the GPU's memory.
        free: usize,
    },
    /// A tensor is neither in host memory nor on the GPU, or not contiguous.
    #[error("expected a contiguous tensor on the GPU or in host memory")]
    Tensor,
    /// An arena for the transfers that are timed cannot be had.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// Bytes arrived changed.
    #[error("{0} changed its bytes")]
    Corrupted(String),
    /// The indexer named a slot that the block cache does not have.
    #[error("the indexer put a block into slot {slot} of {slots}")]
    Slot {
        /// The slot.
        slot: u32,
        /// Slots of each KV head.
        slots: u32,
    },
}

/// What is queued on a stream so far, to be waited for.
pub(super) fn mark(stream: &CudaStream) -> Result<CudaEvent, CudaError> {
    stream.record_event(None).map_err(tried("mark what is queued"))
}

/// Makes a stream wait until what `event` marks is done.
pub(super) fn wait_for(stream: &CudaStream, event: &CudaEvent) -> Result<(), CudaError> {
    stream.wait(event).map_err(tried("let one stream wait for another"))
}

/// Waits until what `event` marks is done.
pub(super) fn reach(event: &CudaEvent) -> Result<(), CudaError> {
    event.synchronize().map_err(tried("finish what was queued"))
}

/// Names what was tried when the driver refused.
pub(super) fn tried(action: &'static str) -> impl FnOnce(DriverError) -> CudaError {
    move |source| CudaError::Driver { action, source }
}
