//! The arena's slabs as page-locked memory, which the GPU reads and writes itself.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUdeviceptr};
use cudarc::driver::{CudaContext, DriverError};
use hindsight_protocol::arena::KvWriter;

/// The slabs of a text that are registered with the driver, one by one: what a text does not use is not locked.
#[derive(Debug)]
pub(super) struct RegisteredSlabs {
    context: Arc<CudaContext>,
    slabs: BTreeMap<u32, Registration>,
}

#[derive(Debug, Clone, Copy)]
struct Registration {
    host: NonNull<u8>,
    device: CUdeviceptr,
}

// SAFETY: the addresses are used with the driver alone, which any thread may call.
unsafe impl Send for Registration {}

impl RegisteredSlabs {
    pub(super) const fn new(context: Arc<CudaContext>) -> Self {
        Self { context, slabs: BTreeMap::new() }
    }

    /// Registers `slab`, if it is not registered yet.
    pub(super) fn register(&mut self, writer: &KvWriter, slab: u32) -> Result<(), DriverError> {
        if self.slabs.contains_key(&slab) {
            return Ok(());
        }
        self.context.bind_to_thread()?;
        let memory = writer.slab(slab);
        let host = memory.cast::<u8>();
        let address = host.as_ptr().cast::<c_void>();
        let flags = sys::CU_MEMHOSTREGISTER_PORTABLE | sys::CU_MEMHOSTREGISTER_DEVICEMAP;
        // SAFETY: the writer's mapping covers the slab, and outlives the registration: the device that holds both
        // unregisters first.
        unsafe { sys::cuMemHostRegister_v2(address, memory.len(), flags) }.result()?;
        let mut device = 0;
        // SAFETY: the memory has just been registered as mapped.
        let mapped = unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut device, address, 0) };
        self.slabs.insert(slab, Registration { host, device });
        mapped.result()
    }

    /// Where the GPU finds a registered slab.
    ///
    /// # Panics
    /// If it is not registered.
    pub(super) fn address(&self, slab: u32) -> CUdeviceptr {
        self.slabs[&slab].device
    }

    /// Ends all registrations: the memory is about to be given back, or the mapping to go. Nothing may be queued that
    /// uses it.
    pub(super) fn clear(&mut self) -> Result<(), DriverError> {
        self.context.bind_to_thread()?;
        let mut outcome = Ok(());
        for Registration { host, .. } in std::mem::take(&mut self.slabs).into_values() {
            // SAFETY: the memory is registered, and nothing that uses it is queued.
            let ended = unsafe { sys::cuMemHostUnregister(host.as_ptr().cast::<c_void>()) };
            outcome = outcome.and(ended.result());
        }
        outcome
    }
}

impl Drop for RegisteredSlabs {
    fn drop(&mut self) {
        let ended = self.clear();
        self.context.record_err(ended);
    }
}
