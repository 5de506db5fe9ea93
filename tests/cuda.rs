//! The CUDA device in real runs of three processes, on the mock driver: kernels are emulated, the model computes on the CPU.

mod support;

use std::path::Path;
use std::process::Output;

use hindsight_cuda_mock_driver::{Link, Mock, Order, Registration};
use serde_json::Value;
use support::{book, error, hindsight, model, stderr};

/// Numbers that go on in one way only: attention that is a little off changes nothing, attention to wrong keys does.
fn counting() -> String {
    (1..=160).map(|number| format!("{number}, ")).collect::<String>().trim_end().to_owned()
}

/// So few keys, and a block cache so small, that blocks are evicted.
const SMALL: [&str; 4] = ["--top-k", "16", "--gpu-kv-bytes", "8MiB"];

fn run(mock: Option<&Mock>, prompt: &str, arguments: &[&str]) -> Output {
    let mut command = hindsight();
    command.args(["run", "--json", "--raw", "--temperature", "0", "--prompt", prompt, "--model"]);
    command.arg(model()).args(arguments);
    match mock {
        Some(mock) => command.args(["--device", "cuda:0"]).envs(mock.environment()),
        None => command.args(["--device", "cpu"]),
    };
    command.output().unwrap()
}

fn report(mock: Option<&Mock>, prompt: &str, arguments: &[&str]) -> Value {
    let output = run(mock, prompt, arguments);
    assert!(output.status.success(), "{arguments:?} on {mock:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(report: &Value) -> &str {
    report["text"].as_str().unwrap()
}

const ADVERSARIAL: [Order; 2] = [Order::AwaitedFirst, Order::AwaitedLast];

#[test]
fn a_gpu_gives_the_tokens_of_the_cpu_whatever_it_attends_to() {
    let prompt = counting();
    for attention in ["lfps", "exact", "full"] {
        let arguments = [&SMALL[..], &["-n", "32", "--attention", attention]].concat();
        let expected = report(None, &prompt, &arguments);
        assert!(text(&expected).starts_with(" 161, 162, 163"), "{expected}");
        for order in ADVERSARIAL {
            let mock = Mock { order, ..Mock::default() };
            let found = report(Some(&mock), &prompt, &arguments);
            assert_eq!(text(&found), text(&expected), "{attention} on {mock:?}");
            assert_eq!(found["device"]["used"], "cuda:0");
        }
    }
}

#[test]
fn where_memory_cannot_be_page_locked_the_worker_copies_and_says_so() {
    let prompt = counting();
    let arguments = [&SMALL[..], &["-n", "32"]].concat();
    let expected = report(None, &prompt, &arguments);
    for order in ADVERSARIAL {
        let mock = Mock { registration: Registration::Refused, order, ..Mock::default() };
        let output = run(Some(&mock), &prompt, &arguments);
        let printed = stderr(&output);
        assert!(output.status.success() && printed.contains("cannot be page-locked"), "{printed}");
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(text(&found), text(&expected), "{mock:?}");
    }
}

#[test]
fn a_forgotten_wait_gives_other_tokens() {
    let prompt = counting();
    let arguments = [&SMALL[..], &["-n", "32"]].concat();
    let right = report(None, &prompt, &arguments);
    let [compute, copy] = [1, 2];
    for (order, forget_waits) in
        [(Order::AwaitedFirst, Some((compute, copy))), (Order::AwaitedLast, Some((copy, compute)))]
    {
        let mock = Mock { order, forget_waits, ..Mock::default() };
        let output = run(Some(&mock), &prompt, &arguments);
        // Numbers that are none may also end the run.
        let same = serde_json::from_slice(&output.stdout)
            .is_ok_and(|report: Value| text(&report) == text(&right));
        assert!(!same, "{mock:?} did no harm");
    }
}

#[test]
fn a_gpu_without_enough_memory_is_an_error_with_the_arithmetic() {
    let mock = Mock { device_bytes: Some(8 << 20), ..Mock::default() };
    let output = run(Some(&mock), &counting(), &[&SMALL[..], &["-n", "2"]].concat());
    let error = error(&output, 8);
    assert_eq!(error["kind"], "gpu_memory", "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("block cache") && message.contains("bytes are free"), "{message}");
    assert!(error["hint"].as_str().unwrap().contains("--gpu-kv-bytes"), "{error}");
}

#[test]
fn the_device_conforms_in_any_order() {
    for (registration, order) in [
        (Registration::Allowed, Order::AwaitedFirst),
        (Registration::Allowed, Order::AwaitedLast),
        (Registration::Refused, Order::AwaitedLast),
    ] {
        let mock = Mock { order, registration, ..Mock::default() };
        let mut command = hindsight();
        command.args(["doctor", "--gpu", "--json"]).envs(mock.environment());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{mock:?}: {}", stderr(&output));
    }
}

/// What the mock driver says it did.
fn operations(trace: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(trace).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_byte_that_the_driver_moves_is_accounted_for() {
    let folder = tempfile::tempdir().unwrap();
    for (registration, attention) in [
        (Registration::Allowed, "lfps"),
        (Registration::Allowed, "full"),
        (Registration::Refused, "lfps"),
    ] {
        let trace = folder.path().join("trace.jsonl");
        let mock = Mock { registration, trace: Some(trace.clone()), ..Mock::default() };
        let arguments = [&SMALL[..], &["-n", "16", "--attention", attention]].concat();
        let report = report(Some(&mock), &counting(), &arguments);
        let counted = |keys: &[&str]| -> u64 {
            keys.iter().map(|key| report["gpu_traffic"][key].as_u64().unwrap()).sum()
        };
        let moved = |direction: &str| -> u64 {
            let operations = operations(&trace);
            let of_direction = operations.iter().filter(|op| op["direction"] == direction);
            of_direction.map(|op| op["bytes"].as_u64().unwrap()).sum()
        };
        let to_gpu = ["miss_bytes", "passing_bytes", "list_bytes", "tensors_in_bytes"];
        assert_eq!(counted(&to_gpu), moved("h2d"), "{mock:?}, {attention}: {report}");
        let from_gpu = ["to_host_bytes", "tensors_out_bytes"];
        assert_eq!(counted(&from_gpu), moved("d2h"), "{mock:?}, {attention}: {report}");
        let staged = report["gpu_traffic"]["staged_bytes"].as_u64().unwrap();
        assert_eq!(staged > 0, registration == Registration::Refused, "{report}");
        assert_eq!(report["gpu_traffic"]["cache_mismatches"], 0);
        let number = |key: &str| report[key].as_f64().unwrap();
        let share = number("link_bytes_per_token") / number("full_link_bytes_per_token");
        assert!((number("share_of_full_streaming") - share).abs() < 1e-9, "{report}");
        if attention == "lfps" {
            let steps = number("decode_steps");
            let token = number("kv_bytes") / (number("prompt_tokens") + steps);
            let misses = report["gpu_traffic"]["miss_bytes"].as_f64().unwrap();
            let travelled = (number("link_bytes_per_token") - token) * steps;
            assert!((travelled - misses).abs() < 1.0, "{report}");
        } else {
            assert!(share < 1.0, "dense layers stay on the GPU: {report}");
        }
        std::fs::remove_file(&trace).unwrap();
    }
}

#[test]
fn a_profile_shows_copies_beside_attention() {
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("profile");
    let mock = Mock { native_prefill: true, ..Mock::default() };
    let text = book(20_000);
    let path = profile.to_str().unwrap();
    let arguments =
        ["-n", "16", "--mock-link", "gen4x16", "--gpu-kv-bytes", "90MiB", "--profile", path];
    report(Some(&mock), text, &arguments);
    let read = |name: &str| -> Value {
        serde_json::from_str(&std::fs::read_to_string(profile.join(name)).unwrap()).unwrap()
    };
    let summary = read("summary.json");
    let gpu = &summary["gpu"];
    assert_eq!(gpu["modelled_link"], "gen4x16", "{gpu}");
    assert_eq!(gpu["decode"]["gathered_bytes"], summary["decode_bytes"]["miss"], "{summary}");
    assert_eq!(gpu["decode"]["appended_bytes"], summary["decode_bytes"]["append"], "{summary}");
    for phase in ["prefill", "decode"] {
        assert!(gpu[phase]["overlap_us"].as_f64().unwrap() > 0.0, "{gpu}");
    }

    let trace = read("trace.json");
    let events = trace["traceEvents"].as_array().unwrap();
    let spans = |name: &'static str| events.iter().filter(move |event| event["name"] == name);
    let time = |event: &Value| {
        let begin = event["ts"].as_f64().unwrap();
        (begin, begin + event["dur"].as_f64().unwrap())
    };
    let beside = spans("gpu-gather")
        .filter(|gather| {
            let (begin, end) = time(gather);
            spans("gpu-attend-hits").map(time).any(|(from, to)| from < end && begin < to)
        })
        .count();
    assert!(beside > 0, "no gathered block travelled beside attention");
    // An arrow leads from each query over selections and the copy to attention on the GPU.
    let gathered = spans("gpu-gather").next().unwrap();
    let id = format!("{}.{}", gathered["args"]["position"], gathered["args"]["layer"]);
    let of_arrow = |phase: &'static str| {
        let id = id.clone();
        events.iter().filter(move |event| event["id"] == id.as_str() && event["ph"] == phase)
    };
    assert_eq!(of_arrow("s").count(), 1, "{id}");
    assert_eq!(of_arrow("t").filter(|event| event["pid"] == 3).count(), 1, "the copy");
    assert!(of_arrow("f").any(|event| event["pid"] == 3 && event["tid"] == 2), "attention");

    let link = &summary["link"];
    assert_eq!(link["limit"]["memory"], "registered", "{link}");
    let copying = link["copying_share"].as_f64().unwrap();
    assert!((0.05..1.1).contains(&copying), "{link}");
    assert!(link["counters"]["absent"].as_str().unwrap().starts_with("NVML"), "{link}");
    let tracks = events.iter().filter_map(|event| event["args"]["name"].as_str());
    let modelled = tracks.filter(|name| name.ends_with("stream (modelled)")).count();
    assert_eq!(modelled, 2, "both streams say that they are modelled");
}

/// A link measured with `arguments` on the mock driver.
fn link(mock: &Mock, arguments: &[&str]) -> Value {
    let mut command = hindsight();
    command.args(["bench", "link", "--json", "--device", "cuda:0", "--repeats", "3"]);
    let output = command.args(arguments).envs(mock.environment()).output().unwrap();
    assert!(output.status.success(), "{mock:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_link_is_measured_as_it_is_modelled() {
    let sizes = ["--sizes", "4KiB,1MiB", "--mock-link", "12.5,3"];
    let report = link(&Mock::default(), &sizes);
    assert_eq!(report["modelled_link"], "12.5,3");
    assert!(report["notes"].to_string().contains("modelled"), "{report}");
    let us = |memory: &str, transfers: &str, direction: &str, bytes: u64| {
        let rows = report["rows"].as_array().unwrap();
        let found = rows.iter().find(|row| {
            row["memory"] == memory
                && row["transfers"] == transfers
                && row["direction"] == direction
                && row["bytes"] == bytes
        });
        found.unwrap_or_else(|| panic!("no {memory} {transfers}: {report}"))["us"].as_f64().unwrap()
    };
    // A mebibyte takes 84 us at 12.5 GB/s, each copy 3 us besides.
    for memory in ["pinned", "registered"] {
        for direction in ["to-device", "to-host"] {
            let once = us(memory, "batched", direction, 1 << 20);
            assert!((86.0..150.0).contains(&once), "{memory} {direction}: {once}");
            let blocks = us(memory, "blocks", direction, 1 << 20);
            assert!(blocks > 84.0 + 256.0 * 3.0, "{memory} {direction}: {blocks} block by block");
            let both = us(memory, "batched", "both", 1 << 20);
            assert!(both < 1.9 * once, "{memory}: {both} both at once, {once} one");
        }
    }
    let gathered = us("registered", "gather", "to-device", 1 << 20);
    assert!(gathered < us("registered", "blocks", "to-device", 1 << 20) / 4.0, "{gathered}");
    let limit = &report["limit"];
    assert_eq!((&limit["memory"], &limit["bytes"]), (&"registered".into(), &(1 << 20).into()));
    assert!((6.0..12.5).contains(&limit["to_device_gb_per_s"].as_f64().unwrap()), "{limit}");
}

#[test]
fn a_link_whose_memory_cannot_be_page_locked_says_so() {
    let mock = Mock { registration: Registration::Refused, ..Mock::default() };
    let report = link(&mock, &["--sizes", "64KiB"]);
    assert_eq!(report["limit"]["memory"], "pinned", "{report}");
    let left_out = report["left_out"].as_array().unwrap();
    let registered = left_out.iter().find(|left_out| left_out["what"] == "registered memory");
    assert!(registered.unwrap()["why"].as_str().unwrap().contains("page-locked"), "{report}");
}

#[test]
fn transfers_arrive_whole_in_any_order() {
    for order in ADVERSARIAL {
        let mock = Mock { order, ..Mock::default() };
        // Each transfer is checked byte by byte: a missing wait ends the command.
        let report = link(&mock, &["--sizes", "4KiB,128KiB"]);
        assert_eq!(report["rows"].as_array().unwrap().len(), 2 * (4 + 6 + 7), "{report}");
    }
}

#[test]
fn little_travels_at_7000_tokens_beside_full_attention() {
    let mock = Mock { link: Some(Link::Gen4x16), native_prefill: true, ..Mock::default() };
    let report = report(Some(&mock), book(26_000), &["-n", "32"]);
    let tokens = report["prompt_tokens"].as_u64().unwrap();
    assert!((6500..8000).contains(&tokens), "{tokens}");
    let number = |key: &str| report[key].as_f64().unwrap();
    let share = number("link_bytes_per_token") / number("full_link_bytes_per_token");
    assert!(share < 1.0 / 20.0, "{share} of full attention's bytes travel");
    assert!(number("cache_hit_rate") > 0.85, "{report}");
}
