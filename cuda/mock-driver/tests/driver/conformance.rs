//! The kernels' own suite, through cudarc and the mock driver: each launch's addresses are checked, and what runs is the
//! emulated kernel, or the native form of prefill attention.

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr, DriverError, LaunchConfig,
    PushKernelArg,
};
use hindsight_cuda::conformance::{Check, Device};
use hindsight_cuda::launch::{Argument, Launch};
use hindsight_cuda_mock_driver::{Mock, Order};

use crate::child::{Programs, answer, run};
use crate::kernels::load;

pub(crate) const PROGRAMS: Programs =
    &[("conform", conform), ("conform in prefill", conform_in_prefill)];

struct CudaDevice {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    kernels: HashMap<String, CudaFunction>,
}

impl CudaDevice {
    fn new() -> Self {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        Self { context, stream, kernels: HashMap::new() }
    }
}

impl Device for CudaDevice {
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
            self.kernels.insert(launch.name.clone(), load(&self.context, &launch.name)?);
        }
        let bits: Vec<u64> = arguments.iter().map(|argument| argument.bits()).collect();
        let mut builder = self.stream.launch_builder(&self.kernels[&launch.name]);
        // The driver reads as many bytes of each as the kernel's type has.
        for bits in &bits {
            builder.arg(bits);
        }
        let ([grid_x, grid_y, grid_z], [x, y, z]) = (launch.grid, launch.block);
        let config = LaunchConfig {
            grid_dim: (grid_x, grid_y, grid_z),
            block_dim: (x, y, z),
            shared_mem_bytes: launch.shared_bytes,
        };
        // SAFETY: the caller's promise; and the arguments are those of the kernel.
        unsafe { builder.launch(config) }.map(|_| ())
    }
}

fn check(check: Check) {
    let cases =
        check.run(&mut CudaDevice::new()).unwrap_or_else(|failure| panic!("{check}: {failure}"));
    answer(format!("{check} {cases}"));
}

fn conform() {
    Check::ALL.into_iter().for_each(check);
}

fn conform_in_prefill() {
    check(Check::PrefillAttention);
}

#[test]
fn the_kernels_conform_on_the_mock_device() {
    let said = run("conform", &Mock { order: Order::AwaitedFirst, ..Mock::default() });
    assert_eq!(said.answers.len(), Check::ALL.len());
    assert!(said.reports.is_empty(), "{}", said.reports);
}

#[test]
fn the_native_form_of_prefill_attention_conforms() {
    let said = run("conform in prefill", &Mock { native_prefill: true, ..Mock::default() });
    assert_eq!(said.answers.len(), 1);
    assert!(said.reports.is_empty(), "{}", said.reports);
}
