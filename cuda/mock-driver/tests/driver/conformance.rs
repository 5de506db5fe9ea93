//! The kernels' own suite, through cudarc and the mock driver: each launch's addresses are checked, and what runs is the
//! emulated kernel, or the native form of prefill attention.

use cudarc::driver::CudaContext;
use hindsight_cuda::conformance::{Check, DriverDevice};
use hindsight_cuda_mock_driver::{Mock, Order};

use crate::child::{Programs, answer, run};
use crate::kernels::module;

pub(crate) const PROGRAMS: Programs =
    &[("conform", conform), ("conform in prefill", conform_in_prefill)];

fn device() -> DriverDevice {
    let context = CudaContext::new(0).unwrap();
    DriverDevice::new(context.new_stream().unwrap(), module(&context).unwrap())
}

fn check(check: Check) {
    let cases = check.run(&mut device()).unwrap_or_else(|failure| panic!("{check}: {failure}"));
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
