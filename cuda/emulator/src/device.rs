//! The emulator as a device of the conformance suite.

use std::{
    alloc::{Layout, alloc, dealloc},
    ptr::NonNull,
};

use hindsight_cuda::{
    conformance::Device,
    launch::{Argument, Launch},
};

use crate::{EmulatorError, Library};

/// Memory of an emulated device: the host's, of the very size that was asked for, so that a sanitizer sees its end.
#[derive(Debug)]
pub struct HostBuffer {
    memory: NonNull<u8>,
    bytes: usize,
    layout: Layout,
}

impl HostBuffer {
    fn new(content: &[u8]) -> Result<Self, EmulatorError> {
        let out_of_memory = || EmulatorError::OutOfMemory(content.len());
        let layout =
            Layout::from_size_align(content.len().max(1), 16).map_err(|_| out_of_memory())?;
        // SAFETY: the layout is not empty.
        let memory = NonNull::new(unsafe { alloc(layout) }).ok_or_else(out_of_memory)?;
        // SAFETY: the memory is new and of at least this size.
        unsafe { memory.copy_from_nonoverlapping(NonNull::from(content).cast(), content.len()) };
        Ok(Self { memory, bytes: content.len(), layout })
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

/// An emulated device.
#[derive(Debug)]
pub struct EmulatedDevice {
    library: Library,
    order: i32,
    guard_bytes: usize,
}

impl EmulatedDevice {
    /// A device that runs the kernels of `library`, threads in `order` (see [`launch`](crate::launch())).
    pub fn new(library: Library, order: i32) -> Self {
        Self { library, order, guard_bytes: 64 }
    }

    /// Lets outputs end where their memory ends, for a sanitizer to see accesses beyond.
    #[must_use]
    pub fn without_guards(self) -> Self {
        Self { guard_bytes: 0, ..self }
    }
}

impl Device for EmulatedDevice {
    type Error = EmulatorError;
    type Buffer = HostBuffer;

    fn upload(&mut self, bytes: &[u8]) -> Result<HostBuffer, EmulatorError> {
        HostBuffer::new(bytes)
    }

    fn address(&self, buffer: &HostBuffer) -> u64 {
        buffer.memory.as_ptr() as u64
    }

    fn download(&mut self, buffer: &HostBuffer) -> Result<Vec<u8>, EmulatorError> {
        // SAFETY: the buffer holds as many bytes, all of which were written when it was made.
        Ok(unsafe { std::slice::from_raw_parts(buffer.memory.as_ptr(), buffer.bytes) }.to_vec())
    }

    unsafe fn launch(
        &mut self,
        launch: &Launch,
        arguments: &[Argument],
    ) -> Result<(), EmulatorError> {
        let shared_bytes = launch.shared_bytes as usize;
        // SAFETY: the caller's promise.
        unsafe {
            self.library.launch(
                &launch.name,
                launch.grid,
                launch.block,
                shared_bytes,
                arguments,
                self.order,
            )
        }
    }

    fn guard_bytes(&self) -> usize {
        self.guard_bytes
    }
}
