//! The model's tensors as the kernels take them, and results as tensors.
//!
//! Where the model computes on this GPU, tensors lie on it already. Where it computes on the CPU, as beside a driver without
//! candle's libraries, they are copied.

use std::sync::Arc;

use candle_core::cuda_backend::{CudaDevice, CudaStorage};
use candle_core::op::BackpropOp;
use candle_core::{Device, Storage, Tensor};
use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaContext, CudaStream, DevicePtr};

use super::error::{CudaError, mark, reach};
use super::memory::{DeviceBuffer, PinnedBuffer, copy_to_device, copy_to_host};
use crate::device::{DeviceError, with_slice};

/// The elements of a tensor on the GPU.
#[derive(Debug, Clone)]
pub(super) struct Elements {
    pub(super) address: CUdeviceptr,
    /// Keeps the memory, where the model's device owns it.
    _tensor: Option<Tensor>,
}

/// One tensor's way from the host: page-locked memory and the GPU's.
#[derive(Debug)]
pub(super) struct Upload {
    pinned: PinnedBuffer<f32>,
    device: DeviceBuffer<f32>,
    /// Bytes that travelled.
    sent: u64,
}

impl Upload {
    pub(super) fn new(context: &Arc<CudaContext>, elements: usize) -> Result<Self, CudaError> {
        Ok(Self {
            pinned: PinnedBuffer::new(context, elements)?,
            device: DeviceBuffer::new(context, elements)?,
            sent: 0,
        })
    }

    /// Bytes that travelled since this was asked last.
    pub(super) fn take_sent(&mut self) -> u64 {
        std::mem::take(&mut self.sent)
    }

    /// The elements of `tensor` on the GPU, for work on `stream`. The upload before must have ended.
    pub(super) fn elements(
        &mut self,
        stream: &CudaStream,
        tensor: &Tensor,
    ) -> Result<Elements, DeviceError> {
        if tensor.device().is_cpu() {
            let pinned = &mut self.pinned.as_mut_slice()[..tensor.elem_count()];
            with_slice(tensor, |elements| pinned.copy_from_slice(elements))?;
            self.sent += size_of_val(pinned) as u64;
            let address = self.device.at(0);
            // SAFETY: the caller waits before the next upload; the buffer on the GPU is as long.
            unsafe { copy_to_device(stream, pinned, address)? };
            return Ok(Elements { address, _tensor: None });
        }
        let (storage, layout) = tensor.storage_and_layout();
        let (Storage::Cuda(storage), Some((start, _))) = (&*storage, layout.contiguous_offsets())
        else {
            return Err(not_here());
        };
        let (address, _guard) = storage.as_cuda_slice::<f32>()?.device_ptr(stream);
        let address = address + (start * size_of::<f32>()) as CUdeviceptr;
        Ok(Elements { address, _tensor: Some(tensor.clone()) })
    }
}

/// Where results go: to a tensor on the GPU, or through page-locked memory to one of the host.
#[derive(Debug)]
pub(super) struct Download {
    /// The model's device, where it is this GPU.
    model: Option<CudaDevice>,
    device: DeviceBuffer<f32>,
    pinned: PinnedBuffer<f32>,
    /// Bytes that travelled.
    received: u64,
}

/// A result that kernels write to.
#[derive(Debug)]
pub(super) enum Output {
    /// Memory that becomes a tensor.
    Tensor(CudaStorage, CUdeviceptr),
    /// The download's own.
    Host(CUdeviceptr),
}

impl Output {
    pub(super) const fn address(&self) -> CUdeviceptr {
        match self {
            Self::Tensor(_, address) | Self::Host(address) => *address,
        }
    }
}

impl Download {
    pub(super) fn new(
        context: &Arc<CudaContext>,
        model: &Device,
        elements: usize,
    ) -> Result<Self, DeviceError> {
        let model = match model {
            Device::Cuda(device) => Some(device.clone()),
            _ => None,
        };
        let elements = if model.is_some() { 0 } else { elements };
        let device = DeviceBuffer::new(context, elements)?;
        Ok(Self { model, device, pinned: PinnedBuffer::new(context, elements)?, received: 0 })
    }

    /// Bytes that travelled since this was asked last.
    pub(super) fn take_received(&mut self) -> u64 {
        std::mem::take(&mut self.received)
    }

    /// Memory for a result of `elements` elements.
    pub(super) fn output(
        &self,
        stream: &CudaStream,
        elements: usize,
    ) -> Result<Output, DeviceError> {
        let Some(model) = &self.model else { return Ok(Output::Host(self.device.at(0))) };
        let memory = model.alloc_zeros::<f32>(elements)?;
        let address = {
            let (address, _guard) = memory.device_ptr(stream);
            address
        };
        Ok(Output::Tensor(CudaStorage::wrap_cuda_slice(memory, model.clone()), address))
    }

    /// The result as a tensor `[rows, columns]` on the model's device.
    pub(super) fn tensor(
        &mut self,
        stream: &CudaStream,
        output: Output,
        (rows, columns): (usize, usize),
    ) -> Result<Tensor, DeviceError> {
        match output {
            Output::Tensor(storage, _) => {
                let storage = Storage::Cuda(storage);
                Ok(Tensor::from_storage(storage, (rows, columns), BackpropOp::none(), false))
            }
            Output::Host(address) => {
                let pinned = &mut self.pinned.as_mut_slice()[..rows * columns];
                self.received += size_of_val(pinned) as u64;
                // SAFETY: the stream is waited for before anybody looks; the buffer on the GPU is as long.
                unsafe { copy_to_host(stream, address, pinned)? };
                reach(&mark(stream)?)?;
                Ok(Tensor::from_slice(pinned, (rows, columns), &Device::Cpu)?)
            }
        }
    }
}

fn not_here() -> DeviceError {
    DeviceError::Cuda(CudaError::Tensor)
}
