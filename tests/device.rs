//! Choosing the device, in builds with and without CUDA. No GPU is needed, and none that is there is used.

mod support;

use std::process::Output;

use serde_json::Value;
use support::{error, hindsight, model, stderr};

/// A short run that sees no GPU.
fn run(arguments: &[&str]) -> Output {
    hindsight()
        .args(["run", "--json", "--raw", "-n", "2", "--prompt", "Hello", "--model"])
        .arg(model())
        .args(arguments)
        .env("CUDA_VISIBLE_DEVICES", "")
        .output()
        .unwrap()
}

/// What a run reports that succeeds.
fn report(arguments: &[&str]) -> Value {
    let output = run(arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn without_a_gpu_the_cpu_computes_and_the_report_says_why() {
    let report = report(&[]);
    let device = &report["device"];
    assert_eq!((&device["asked"], &device["used"]), (&"auto".into(), &"cpu".into()), "{device}");
    assert!(!device["why"].as_str().unwrap().is_empty(), "{device}");
    assert_eq!(report["modelled_link"], Value::Null);
}

#[test]
fn a_gpu_that_was_asked_for_and_is_not_there_ends_the_run_with_a_way_out() {
    let error = error(&run(&["--device", "cuda:0"]), 12);
    let kind = error["kind"].as_str().unwrap();
    let expected: &[&str] = match cfg!(feature = "cuda") {
        true => &["no_driver", "no_such_device"],
        false => &["no_cuda"],
    };
    assert!(expected.contains(&kind), "{error}");
    assert!(error["message"].as_str().unwrap().starts_with("--device cuda:0: "), "{error}");
    assert!(!error["hint"].as_str().unwrap().is_empty(), "{error}");
}

#[test]
fn a_device_that_does_not_exist_is_refused_with_those_that_do() {
    let output = run(&["--device", "gpu"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("use cpu, or cuda:0"), "{}", stderr(&output));
}

#[test]
fn the_size_of_the_block_cache_is_what_was_asked_for() {
    let bytes = |size: &str| report(&["--gpu-kv-bytes", size])["cache_bytes"].as_u64().unwrap();
    // One block of a short text for each of 28 layers and 3 heads: 16 tokens of 64 elements, twice, of two bytes.
    assert_eq!(bytes("1MiB"), 28 * 3 * 4096);
    let refused = error(&run(&["--gpu-kv-bytes", "64KiB"]), 6);
    assert_eq!(refused["kind"], "gpu_kv_bytes");
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("hold 0 blocks for each of 84 KV heads"), "{message}");
    assert!(refused["hint"].as_str().unwrap().contains("--gpu-kv-bytes 1MiB"), "{refused}");
}

#[test]
fn the_processor_computes_what_a_device_must() {
    let output =
        hindsight().args(["doctor", "--gpu", "--device", "cpu", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["device"], "cpu");
    let cases = report["cases"].as_array().unwrap();
    assert!(!cases.is_empty() && cases.iter().all(|case| case["passed"] == true), "{report}");
}

#[test]
fn a_link_is_modelled_for_the_mock_device_alone() {
    let refused = error(&run(&["--mock-link", "gen4x16"]), 2);
    assert_eq!(refused["kind"], "no_mock_device");
}

/// The program starts where there is no CUDA: it names none of NVIDIA's libraries, and opens them when they are called.
#[test]
#[cfg(feature = "cuda")]
fn the_program_is_linked_with_none_of_nvidias_libraries() {
    let output =
        std::process::Command::new("ldd").arg(env!("CARGO_BIN_EXE_hindsight")).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let libraries = String::from_utf8(output.stdout).unwrap();
    assert!(libraries.contains("libc.so"), "{libraries}");
    for name in ["libcuda", "libcublas", "libcurand", "libnvrtc", "libnvidia"] {
        assert!(!libraries.contains(name), "{libraries}");
    }
}
