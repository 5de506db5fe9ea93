//! What the NVIDIA driver says of itself and its GPUs.

use std::error::Error;

use cudarc::driver::result::{DriverError, device, init};
use cudarc::driver::sys::{CUdevice_attribute as Attribute, CUresult, cuDriverGetVersion};
use libloading::Library;

use super::{DRIVER_LIBRARY, DeviceUnavailable, GpuDescription, TOOLKIT, Version};

/// A driver that works, and is recent enough.
pub(super) struct Driver {
    version: Version,
}

impl Driver {
    /// Initializes the driver of this process, once or more often.
    ///
    /// # Errors
    /// It is not there, does not work, or is too old.
    pub(super) fn load() -> Result<Self, DeviceUnavailable> {
        match init() {
            Ok(()) => {}
            Err(DriverError(CUresult::CUDA_ERROR_STUB_LIBRARY)) => {
                let why = missing(DRIVER_LIBRARY);
                let why = why.unwrap_or_else(|| format!("{DRIVER_LIBRARY} is a stub for building"));
                return Err(DeviceUnavailable::NoDriver(why));
            }
            // No GPU is not a fault of the driver's: it sees none.
            Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => {}
            Err(error) => return Err(fails(error)),
        }
        let mut number = 0;
        // SAFETY: the driver writes one integer there.
        unsafe { cuDriverGetVersion(&raw mut number) }.result().map_err(fails)?;
        let number = u32::try_from(number).unwrap_or(0);
        let version = Version { major: number / 1000, minor: number % 1000 / 10 };
        if version < TOOLKIT {
            Err(DeviceUnavailable::DriverTooOld(version))
        } else {
            Ok(Self { version })
        }
    }

    /// How many GPUs the driver sees.
    ///
    /// # Errors
    /// The driver fails.
    pub(super) fn gpus(&self) -> Result<u32, DeviceUnavailable> {
        match device::get_count() {
            Ok(count) => Ok(u32::try_from(count).unwrap_or(0)),
            // Where it has found none, it takes itself for not initialized.
            Err(DriverError(
                CUresult::CUDA_ERROR_NO_DEVICE | CUresult::CUDA_ERROR_NOT_INITIALIZED,
            )) => Ok(0),
            Err(error) => Err(fails(error)),
        }
    }

    /// Name and description of a GPU, which must be one of those that the driver sees.
    ///
    /// # Errors
    /// The driver fails.
    pub(super) fn describe(
        &self,
        number: u32,
    ) -> Result<(String, GpuDescription), DeviceUnavailable> {
        let ordinal = i32::try_from(number).unwrap_or(i32::MAX);
        let gpu = device::get(ordinal).map_err(fails)?;
        let attribute = |attribute| {
            // SAFETY: the driver has just given out this handle.
            let value = unsafe { device::get_attribute(gpu, attribute) }.map_err(fails)?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        // SAFETY: as above.
        let memory_bytes = unsafe { device::total_mem(gpu) }.map_err(fails)? as u64;
        let compute_capability = Version {
            major: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            minor: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        };
        let name = device::get_name(gpu).map_err(fails)?;
        Ok((name, GpuDescription { memory_bytes, compute_capability, driver_cuda: self.version }))
    }
}

fn fails(error: DriverError) -> DeviceUnavailable {
    DeviceUnavailable::DriverFails(error.to_string())
}

/// What the system says when it cannot open a library; nothing if it can.
pub(super) fn missing(library: &str) -> Option<String> {
    // SAFETY: the library is NVIDIA's, or what the user has put in its place; that its initializers run is what happens
    // when it is first called as well.
    let error = unsafe { Library::new(library) }.err()?;
    Some(error.source().map_or_else(|| error.to_string(), ToString::to_string))
}
