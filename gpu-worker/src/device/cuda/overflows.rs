//! Keys and values that exceed the element type's range.

use cudarc::driver::CudaStream;
use cudarc::driver::sys::CUdeviceptr;

use super::error::CudaError;
use super::memory::{DeviceBuffer, PinnedBuffer, copy_to_host};

/// Their numbers: counted on the GPU when tokens are stored in the arena, and by the worker where it stores them itself.
#[derive(Debug)]
pub(super) struct Overflows {
    /// Those of tokens as they go to the arena, and as they are stored on the GPU besides.
    device: DeviceBuffer<u64>,
    pinned: PinnedBuffer<u64>,
    /// As of the last wait.
    known: u64,
    on_host: u64,
    taken: u64,
}

impl Overflows {
    pub(super) fn new(stream: &CudaStream) -> Result<Self, CudaError> {
        let context = stream.context();
        let mut device = DeviceBuffer::new(context, 2)?;
        device.clear(stream)?;
        let pinned = PinnedBuffer::new(context, 1)?;
        Ok(Self { device, pinned, known: 0, on_host: 0, taken: 0 })
    }

    /// What a kernel adds to: a token is stored in the arena once, and may be stored on the GPU too.
    pub(super) fn counter(&self, in_arena: bool) -> CUdeviceptr {
        self.device.at(usize::from(!in_arena))
    }

    /// Queues the reading of the number; returns the bytes that travel.
    pub(super) fn read(&mut self, stream: &CudaStream) -> Result<u64, CudaError> {
        let target = self.pinned.as_mut_slice();
        let bytes = size_of_val(target) as u64;
        // SAFETY: the number is looked at by `know` alone, after a wait; the counter is as long.
        unsafe { copy_to_host(stream, self.device.at(0), target)? };
        Ok(bytes)
    }

    /// States that what has been queued has been waited for.
    pub(super) fn know(&mut self) {
        self.known = self.pinned.as_slice()[0];
    }

    /// Adds those that the worker found itself.
    pub(super) const fn add(&mut self, overflows: u64) {
        self.on_host += overflows;
    }

    /// Those that became known since this was asked last.
    pub(super) const fn take(&mut self) -> u64 {
        let counted = self.known + self.on_host;
        counted - std::mem::replace(&mut self.taken, counted)
    }
}
