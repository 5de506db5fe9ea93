//! The kernels, emulated, conform: with threads in several orders.

use hindsight_cuda::conformance::Check;
use hindsight_cuda_emulator::{EmulatedDevice, Library};

fn check(check: Check) {
    for order in [0, 1, 7, 1234] {
        let mut device = EmulatedDevice::new(Library::linked(), order);
        let cases =
            check.run(&mut device).unwrap_or_else(|failure| panic!("order {order}: {failure}"));
        assert!(cases > 10, "{check} has only {cases} cases");
    }
}

#[test]
fn append_rounds_and_stores() {
    check(Check::Append);
}

#[test]
fn gather_copies_blocks() {
    check(Check::GatherBlocks);
}

#[test]
fn merge_weighs_partials() {
    check(Check::MergePartials);
}

#[test]
fn decode_attends_to_listed_blocks() {
    check(Check::DecodeAttention);
}

#[test]
fn prefill_attends_part_by_part() {
    check(Check::PrefillAttention);
}
