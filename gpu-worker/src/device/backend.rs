//! The device of a run: where the model computes, and where attention is computed.

use candle_core::Device as ModelDevice;
use hindsight_protocol::arena::{Arena, Layout};
use hindsight_protocol::device::Device;
use hindsight_protocol::telemetry::WorkerCounters;

use super::conformance::KernelOutcome;
use super::cpu::CpuDevice;
use super::transfer::{MeasuredTransfers, TransferPlan};
use super::{AttentionDevice, Demand, DeviceError};
use crate::threads::Pools;

/// A device that has been opened.
#[derive(Debug)]
pub struct Backend {
    model: ModelDevice,
    #[cfg(feature = "cuda")]
    gpu: Option<super::cuda::Gpu>,
}

impl Backend {
    /// Opens a device.
    ///
    /// # Errors
    /// [`DeviceError`] if there is no such device, or its driver refuses.
    pub fn open(device: Device) -> Result<Self, DeviceError> {
        match device {
            Device::Cpu => Ok(Self {
                model: ModelDevice::Cpu,
                #[cfg(feature = "cuda")]
                gpu: None,
            }),
            #[cfg(feature = "cuda")]
            Device::Cuda(number) => {
                let gpu = super::cuda::Gpu::open(number)?;
                Ok(Self { model: gpu.model.clone(), gpu: Some(gpu) })
            }
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => Err(DeviceError::Absent(device)),
        }
    }

    /// The device that the model computes on.
    #[must_use]
    pub const fn model(&self) -> &ModelDevice {
        &self.model
    }

    /// Makes sure, before anything is loaded, that the device's memory takes what will be asked of it.
    ///
    /// # Errors
    /// [`DeviceError`] with the arithmetic.
    pub fn check(&self, layout: &Layout, demand: Demand) -> Result<(), DeviceError> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = &self.gpu {
            gpu.check(layout, demand)?;
        }
        #[cfg(not(feature = "cuda"))]
        let _ = (layout, demand);
        Ok(())
    }

    /// Checks each kernel of a GPU alone; `progress` hears of each before it begins. Other devices have none of these kernels.
    ///
    /// # Errors
    /// [`DeviceError`] if the kernels cannot be loaded.
    pub fn check_kernels(
        &self,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Vec<KernelOutcome>, DeviceError> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = &self.gpu {
            return Ok(gpu.check_kernels(progress)?);
        }
        #[cfg(not(feature = "cuda"))]
        let _ = progress;
        Ok(Vec::new())
    }

    /// Times transfers between host memory and a GPU. Other devices have no link.
    ///
    /// # Errors
    /// [`DeviceError`] if the device has no link, the GPU's driver refuses, or bytes arrive changed.
    pub fn time_transfers(&self, plan: &TransferPlan) -> Result<MeasuredTransfers, DeviceError> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = &self.gpu {
            return Ok(gpu.time_transfers(plan)?);
        }
        let _ = plan;
        Err(DeviceError::NoLink)
    }

    /// Prepares attention over `arena`.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn attention<'a>(
        &self,
        arena: &'a Arena,
        counters: &'a WorkerCounters,
        pools: &'a Pools,
        demand: Demand,
    ) -> Result<Box<dyn AttentionDevice + 'a>, DeviceError> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = &self.gpu {
            return Ok(Box::new(gpu.attention(arena, counters, demand)?));
        }
        #[cfg(not(feature = "cuda"))]
        let _ = (counters, demand);
        Ok(Box::new(CpuDevice::new(arena, pools)?))
    }
}
