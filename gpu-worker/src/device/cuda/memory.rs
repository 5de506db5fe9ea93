//! Memory that a GPU reaches: its own, and page-locked memory of the host.
//!
//! Buffers do not know which copies and kernels use them. Who queues work keeps its buffers until it has waited for that
//! work, and the events that order it.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::mem::size_of;
use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUdeviceptr};
use cudarc::driver::{CudaContext, CudaStream, result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::error::{CudaError, tried};

/// What travels as plain bytes.
pub(super) trait Plain: FromBytes + IntoBytes + Immutable + Copy {}
impl<T: FromBytes + IntoBytes + Immutable + Copy> Plain for T {}

/// Memory of the GPU, not initialised.
#[derive(Debug)]
pub(super) struct DeviceBuffer<T> {
    context: Arc<CudaContext>,
    address: CUdeviceptr,
    len: usize,
    elements: PhantomData<T>,
}

impl<T: Plain> DeviceBuffer<T> {
    /// Takes memory for `len` elements; for none, takes nothing.
    pub(super) fn new(context: &Arc<CudaContext>, len: usize) -> Result<Self, CudaError> {
        context.bind_to_thread().map_err(tried("be used by this thread"))?;
        let address = match len * size_of::<T>() {
            0 => 0,
            // SAFETY: the context is current; the memory is given back by `drop` alone.
            bytes => unsafe { result::malloc_sync(bytes) }.map_err(tried("give memory"))?,
        };
        Ok(Self { context: Arc::clone(context), address, len, elements: PhantomData })
    }

    /// Fills the memory with zeros.
    pub(super) fn clear(&mut self, stream: &CudaStream) -> Result<(), CudaError> {
        self.context.bind_to_thread().map_err(tried("be used by this thread"))?;
        let bytes = self.len * size_of::<T>();
        // SAFETY: the memory is `bytes` long.
        unsafe { result::memset_d8_async(self.address, 0, bytes, stream.cu_stream()) }
            .map_err(tried("clear memory"))
    }

    /// The address of element `index`.
    ///
    /// # Panics
    /// If it lies beyond the end.
    pub(super) fn at(&self, index: usize) -> CUdeviceptr {
        assert!(index <= self.len, "element {index} of {}", self.len);
        self.address + (index * size_of::<T>()) as CUdeviceptr
    }
}

impl<T> Drop for DeviceBuffer<T> {
    fn drop(&mut self) {
        if self.address != 0 {
            self.context.record_err(self.context.bind_to_thread());
            // SAFETY: the memory is this buffer's, and freeing waits for work that is still queued.
            self.context.record_err(unsafe { result::free_sync(self.address) });
        }
    }
}

/// Page-locked host memory, zeroed.
#[derive(Debug)]
pub(super) struct PinnedBuffer<T> {
    context: Arc<CudaContext>,
    start: NonNull<T>,
    len: usize,
}

// SAFETY: the memory belongs to the buffer alone, whichever thread holds it.
unsafe impl<T: Send> Send for PinnedBuffer<T> {}

impl<T: Plain> PinnedBuffer<T> {
    /// Takes memory for `len` elements.
    pub(super) fn new(context: &Arc<CudaContext>, len: usize) -> Result<Self, CudaError> {
        context.bind_to_thread().map_err(tried("be used by this thread"))?;
        let bytes = (len * size_of::<T>()).max(1);
        // SAFETY: the context is current; the memory is given back by `drop` alone.
        let start = unsafe { result::malloc_host(bytes, sys::CU_MEMHOSTALLOC_PORTABLE) }
            .map_err(tried("give page-locked memory"))?;
        // SAFETY: the memory is `bytes` long.
        unsafe { start.cast::<u8>().write_bytes(0, bytes) };
        let start = NonNull::new(start.cast::<T>()).expect("the driver gives no null memory");
        Ok(Self { context: Arc::clone(context), start, len })
    }

    /// The elements. No copy into them may be under way.
    pub(super) fn as_slice(&self) -> &[T] {
        // SAFETY: the memory holds `len` elements, zeroed at first, valid whatever their bytes.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The elements. No copy of them may be under way.
    pub(super) fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above, and the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for PinnedBuffer<T> {
    fn drop(&mut self) {
        self.context.record_err(self.context.bind_to_thread());
        // SAFETY: the memory is this buffer's, and whoever queued copies has waited for them.
        self.context.record_err(unsafe { result::free_host(self.start.as_ptr().cast::<c_void>()) });
    }
}

/// Queues a copy of page-locked host memory to the GPU.
///
/// # Safety
/// `source` stays as it is until the copy has ended, and `target` takes that many bytes.
pub(super) unsafe fn copy_to_device<T>(
    stream: &CudaStream,
    source: &[T],
    target: CUdeviceptr,
) -> Result<(), CudaError> {
    stream.context().bind_to_thread().map_err(tried("be used by this thread"))?;
    // SAFETY: the caller's.
    let queued = unsafe { result::memcpy_htod_async(target, source, stream.cu_stream()) };
    queued.map_err(tried("queue a copy"))
}

/// Queues a copy of the GPU's memory to page-locked host memory.
///
/// # Safety
/// Nobody touches `target` until the copy has ended, and `source` holds that many bytes.
pub(super) unsafe fn copy_to_host<T>(
    stream: &CudaStream,
    source: CUdeviceptr,
    target: &mut [T],
) -> Result<(), CudaError> {
    stream.context().bind_to_thread().map_err(tried("be used by this thread"))?;
    // SAFETY: the caller's.
    let queued = unsafe { result::memcpy_dtoh_async(target, source, stream.cu_stream()) };
    queued.map_err(tried("queue a copy"))
}
