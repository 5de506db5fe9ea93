//! A device behind a CUDA driver.

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::driver::{
    CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DriverError, LaunchConfig,
    PushKernelArg,
};

use super::Device;
use crate::launch::{Argument, Launch};

/// Runs the kernels of a loaded module on a stream.
#[derive(Debug)]
pub struct DriverDevice {
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    kernels: HashMap<String, CudaFunction>,
}

impl DriverDevice {
    /// A device that runs what it finds in `module` on `stream`.
    pub fn new(stream: Arc<CudaStream>, module: Arc<CudaModule>) -> Self {
        Self { stream, module, kernels: HashMap::new() }
    }
}

impl Device for DriverDevice {
    type Error = DriverError;
    type Buffer = CudaSlice<u8>;

    fn upload(&mut self, bytes: &[u8]) -> Result<Self::Buffer, DriverError> {
        self.stream.clone_htod(bytes)
    }

    fn address(&self, buffer: &Self::Buffer) -> u64 {
        buffer.device_ptr(&self.stream).0
    }

    fn download(&mut self, buffer: &Self::Buffer) -> Result<Vec<u8>, DriverError> {
        self.stream.clone_dtoh(buffer)
    }

    unsafe fn launch(
        &mut self,
        launch: &Launch,
        arguments: &[Argument],
    ) -> Result<(), DriverError> {
        if !self.kernels.contains_key(&launch.name) {
            let kernel = self.module.load_function(&launch.name)?;
            self.kernels.insert(launch.name.clone(), kernel);
        }
        let bits: Vec<u64> = arguments.iter().map(|argument| argument.bits()).collect();
        let mut builder = self.stream.launch_builder(&self.kernels[&launch.name]);
        // The driver reads as many bytes of each as the kernel's parameter has.
        for bits in &bits {
            builder.arg(bits);
        }
        let config = LaunchConfig {
            grid_dim: launch.grid.into(),
            block_dim: launch.block.into(),
            shared_mem_bytes: launch.shared_bytes,
        };
        // SAFETY: the arguments are those of the kernel, and the caller vouches for the addresses.
        unsafe { builder.launch(config) }.map(drop)
    }
}
