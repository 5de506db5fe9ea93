//! What the device says it is, and what the driver says to what it cannot do.

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, DriverError};
use hindsight_cuda_mock_driver::{Link, Mock};

use crate::child::{Programs, answer, run};

pub(crate) const PROGRAMS: Programs =
    &[("describe", describe), ("unsupported", unsupported), ("start", start)];

fn describe() {
    let context = CudaContext::new(0).unwrap();
    assert_eq!(context.name().unwrap(), "Hindsight mock device");
    assert_eq!(context.compute_capability().unwrap(), (8, 0));
    assert_eq!(context.total_mem().unwrap(), 3 << 20);
    assert!(context.has_async_alloc());
    let mut id = [0; 16];
    // SAFETY: `id` has as many bytes as the call is told.
    unsafe { sys::cuDeviceGetPCIBusId(id.as_mut_ptr(), 16, context.cu_device()) }.result().unwrap();
    assert_eq!(id.map(|byte| byte as u8).split(|byte| *byte == 0).next().unwrap(), b"0000:01:00.0");
    let error = DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    assert_eq!(error.error_name().unwrap().to_str().unwrap(), "CUDA_ERROR_OUT_OF_MEMORY");
    assert_eq!(error.error_string().unwrap().to_str().unwrap(), "out of memory");
    assert_eq!(CudaContext::new(1).unwrap_err().0, CUresult::CUDA_ERROR_INVALID_DEVICE);
}

#[test]
fn the_device_describes_itself() {
    run("describe", &Mock { device_bytes: Some(3 << 20), ..Mock::default() });
}

fn unsupported() {
    let context = CudaContext::new(0).unwrap();
    for _ in 0..3 {
        let error = context.get_limit(sys::CUlimit::CU_LIMIT_STACK_SIZE).unwrap_err();
        assert_eq!(error.0, CUresult::CUDA_ERROR_NOT_SUPPORTED);
    }
}

#[test]
fn what_is_not_implemented_is_named_once() {
    let said = run("unsupported", &Mock::default());
    assert_eq!(
        said.reports.matches("cuCtxGetLimit is not implemented").count(),
        1,
        "{}",
        said.reports
    );
}

fn start() {
    answer(CudaContext::new(0).map_or_else(|error| format!("{:?}", error.0), |_| "started".into()));
}

#[test]
fn nonsense_in_the_environment_is_refused_by_name() {
    let nonsense =
        Mock { link: Some(Link::Custom { gb_per_s: -1.0, latency_us: 0.0 }), ..Mock::default() };
    let said = run("start", &nonsense);
    assert_eq!(said.answers, ["CUDA_ERROR_INVALID_VALUE"]);
    assert!(said.reports.contains("MOCK_LINK=-1,0"), "{}", said.reports);
}
