//! A GPU, opened: its stream, and the device that the model computes on.

use std::sync::Arc;

use candle_core::Device;
use cudarc::driver::{CudaContext, CudaStream};
use hindsight_protocol::arena::{Arena, Layout};
use hindsight_protocol::telemetry::WorkerCounters;

use super::error::tried;
use super::{CudaDevice, CudaError, MemoryPlan, kernel_checks, transfers};
use crate::device::conformance::KernelOutcome;
use crate::device::probe::MOCK_DEVICE;
use crate::device::transfer::{MeasuredTransfers, TransferPlan};
use crate::device::{Demand, DeviceError};

/// A GPU.
#[derive(Debug)]
pub struct Gpu {
    stream: Arc<CudaStream>,
    pub(in crate::device) model: Device,
}

impl Gpu {
    /// Opens the GPU of this number.
    ///
    /// # Errors
    /// [`DeviceError`] if the driver refuses.
    pub fn open(number: u32) -> Result<Self, DeviceError> {
        let number = number as usize;
        let context = CudaContext::new(number).map_err(tried("open the GPU"))?;
        let name = context.name().map_err(tried("name the GPU"))?;
        if name == MOCK_DEVICE {
            // Its driver has none of candle's libraries.
            tracing::info!("the GPU is the mock device: the model computes on the CPU");
            let stream = context.new_stream().map_err(tried("make a stream"))?;
            return Ok(Self { stream, model: Device::Cpu });
        }
        let model = Device::new_cuda_with_stream(number)?;
        Ok(Self { stream: model.as_cuda_device()?.cuda_stream(), model })
    }

    /// Compares what will be needed with what is free.
    ///
    /// # Errors
    /// [`CudaError::Memory`] with the arithmetic.
    pub fn check(&self, layout: &Layout, demand: Demand) -> Result<(), CudaError> {
        let weights = if self.model.is_cpu() { 0 } else { demand.weights };
        MemoryPlan::new(layout, Demand { weights, ..demand }).check(self.stream.context())
    }

    /// Runs the kernels' own checks; `progress` hears of each before it begins.
    ///
    /// # Errors
    /// [`CudaError`] if the kernels cannot be loaded.
    pub fn check_kernels(
        &self,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Vec<KernelOutcome>, CudaError> {
        kernel_checks::run(&self.stream, progress)
    }

    /// Times transfers to and from the GPU.
    ///
    /// # Errors
    /// [`CudaError`] if the driver refuses, or bytes arrive changed.
    pub fn time_transfers(&self, plan: &TransferPlan) -> Result<MeasuredTransfers, CudaError> {
        transfers::time(&self.stream, plan)
    }

    /// Prepares attention over `arena`.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn attention<'a>(
        &self,
        arena: &'a Arena,
        counters: &'a WorkerCounters,
        demand: Demand,
    ) -> Result<CudaDevice<'a>, DeviceError> {
        CudaDevice::new(arena, counters, &self.stream, &self.model, demand)
    }
}
