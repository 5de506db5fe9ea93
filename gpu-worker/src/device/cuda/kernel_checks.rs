//! The kernels' own suite on this GPU: each kernel alone, over many shapes, against a scalar reference.

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::driver::{
    CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DriverError, LaunchConfig,
    PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use hindsight_cuda::conformance::{Check, Device};
use hindsight_cuda::launch::{Argument, Launch};

use super::error::{CudaError, tried};
use crate::device::conformance::KernelOutcome;

/// Runs all checks on the GPU that `stream` belongs to; `progress` hears of each before it begins.
///
/// # Errors
/// [`CudaError`] if the kernels cannot be loaded.
pub(in crate::device) fn run(
    stream: &Arc<CudaStream>,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<KernelOutcome>, CudaError> {
    let image = Ptx::from_binary(hindsight_cuda::FATBIN.to_vec());
    let module = stream.context().load_module(image).map_err(tried("load the kernels"))?;
    let mut kernels = Loaded { stream: Arc::clone(stream), module, functions: HashMap::new() };
    let run = |check: Check| {
        let kernel = check.to_string();
        progress(&kernel);
        match check.run(&mut kernels) {
            Ok(cases) => KernelOutcome { kernel, cases, error: None },
            Err(failure) => KernelOutcome { kernel, cases: 0, error: Some(failure.to_string()) },
        }
    };
    Ok(Check::ALL.map(run).into())
}

struct Loaded {
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    functions: HashMap<String, CudaFunction>,
}

impl Device for Loaded {
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
        if !self.functions.contains_key(&launch.name) {
            let function = self.module.load_function(&launch.name)?;
            self.functions.insert(launch.name.clone(), function);
        }
        let bits: Vec<u64> = arguments.iter().map(|argument| argument.bits()).collect();
        let mut builder = self.stream.launch_builder(&self.functions[&launch.name]);
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
