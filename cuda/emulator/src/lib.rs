//! Runs CUDA kernels on the host, from the very source that is compiled for GPUs.
//!
//! Each CUDA thread is a fiber; the threads of a block run one at a time, in an order that the caller chooses, and give
//! way only where the kernel synchronises. Shared memory is poisoned when a block starts. A barrier that not all threads
//! reach, and a warp operation whose lanes never arrive, end the launch with an error. What this cannot show: tensor
//! cores, asynchronous copies, the memory model between threads that run at the same time, and speed.

mod device;
mod error;
mod library;

pub use device::{EmulatedDevice, HostBuffer};
pub use error::EmulatorError;
use hindsight_cuda::launch::Argument;
pub use library::Library;

/// Runs the kernel `name` over `grid` blocks of `block` threads with `shared_bytes` of dynamic shared memory.
///
/// `order` chooses who runs first among threads that could run: 0 the lowest, 1 the highest. Other numbers are the seeds of
/// random orders: even ones shuffle all threads, odd ones let one warp run as far as it gets before another runs.
///
/// # Errors
///
/// See [`EmulatorError`]. Memory that the kernel writes may have been written in part.
///
/// # Safety
///
/// Pointers among `arguments` must be valid for what the kernel reads and writes through them with this grid.
pub unsafe fn launch(
    name: &str,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: usize,
    arguments: &[Argument],
    order: i32,
) -> Result<(), EmulatorError> {
    // SAFETY: the caller's promise.
    unsafe { Library::linked().launch(name, grid, block, shared_bytes, arguments, order) }
}
