//! The index is timed over attention of a real model.

mod support;

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use support::{hindsight, model, stderr};
use tempfile::TempDir;

fn bench_index(trace: &Path, arguments: &[&str]) -> Output {
    hindsight()
        .args(["bench", "index", "--json", "--trace"])
        .arg(trace)
        .args(["--kv-heads", "2", "--group", "3", "--head-dim", "64", "--top-k", "64"])
        .args(["--steps", "2", "--repeats", "1"])
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn steps_of_the_index_are_timed_beside_those_of_an_exact_scan() {
    let directory = TempDir::new().unwrap();
    let trace = directory.path().join("trace.safetensors");
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/alice.txt");
    let recorded = hindsight()
        .args(["trace", "record", "--prompt-tokens", "600", "--steps", "8", "--layers", "2,7"])
        .arg("--model")
        .arg(model())
        .arg("--text")
        .arg(text)
        .arg("--output")
        .arg(&trace)
        .output()
        .unwrap();
    assert!(recorded.status.success(), "{}", stderr(&recorded));

    let output = bench_index(&trace, &["--context", "1024,4096"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["memory_bandwidth_gb_per_s"].as_f64().unwrap() > 0.0);
    let rows = report["rows"].as_array().unwrap();
    let contexts: Vec<_> = rows.iter().map(|row| row["context"].as_u64().unwrap()).collect();
    assert_eq!(contexts, [1024, 4096]);
    for row in rows {
        let figure = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("no {key} in {row}"));
        assert!((figure("speedup") - figure("exact_us") / figure("lfps_us")).abs() < 1e-6);
        assert!(figure("exact_scan_us") < figure("exact_us") * 2.0, "{row}");
        assert_eq!(figure("exact_bytes"), figure("context") * 64.0 * 2.0);
        assert!(figure("lfps_candidates") >= 64.0, "{row}");
        assert!((0.0..=1.0).contains(&figure("repair_rate")), "{row}");
        assert!((0.9..1.001).contains(&figure("lfps_mass")), "{row}");
        assert!(figure("lfps_mass") > figure("history_mass") - 0.05, "{row}");
        assert!(figure("exact_bandwidth_share") > 0.0, "{row}");
    }
    assert!(rows[1]["lfps_bytes"].as_f64() < rows[1]["exact_bytes"].as_f64(), "{}", rows[1]);
}

#[test]
fn the_link_between_two_cores_is_measured_by_size() {
    let directory = TempDir::new().unwrap();
    let plot = directory.path().join("link.svg");
    let output = hindsight()
        .args(["bench", "link", "--json", "--device", "cpu", "--sizes", "64KiB,4KiB"])
        .args(["--repeats", "3", "--plot"])
        .arg(&plot)
        .output()
        .unwrap();
    if output.status.code() == Some(7) {
        // Two processes want two cores.
        assert_eq!(support::error(&output, 7)["kind"], "one_core");
        return;
    }
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2 * 2 * 3, "sizes, ways, directions: {report}");
    for row in rows {
        let number = |key: &str| row[key].as_f64().unwrap();
        let bytes = number("bytes") * if row["direction"] == "both" { 2.0 } else { 1.0 };
        assert!((number("gb_per_s") - bytes / number("us") / 1e3).abs() < 1e-6, "{row}");
        assert!(number("us_min") <= number("us") && number("us") <= number("us_max"), "{row}");
        assert_eq!(row["memory"], "shared");
    }
    assert_eq!(report["limit"]["bytes"], 64 << 10, "{report}");
    assert!(report["left_out"].to_string().contains("pageable"), "{report}");
    assert!(std::fs::read_to_string(&plot).unwrap().contains("<svg"));

    let odd = hindsight().args(["bench", "link", "--json", "--sizes", "5000"]).output().unwrap();
    assert_eq!(support::error(&odd, 2)["kind"], "transfer_size");
}

#[test]
fn without_a_trace_one_is_recorded_once() {
    let directory = TempDir::new().unwrap();
    let home = directory.path().join("home");
    std::fs::create_dir(&home).unwrap();
    std::os::unix::fs::symlink(model().parent().unwrap(), home.join("models")).unwrap();
    let plot = directory.path().join("plot.svg");
    let bench = || {
        let output = hindsight()
            .args(["bench", "index", "--json", "--context", "1024", "--kv-heads", "1"])
            .args(["--top-k", "64", "--steps", "1", "--repeats", "1", "--plot"])
            .arg(&plot)
            .env("HINDSIGHT_HOME", &home)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let trace = home.join("traces/smollm2-135m-4096-64.safetensors");
    let first = bench();
    let recorded = std::fs::metadata(&trace).unwrap().modified().unwrap();
    let second = bench();
    assert_eq!(std::fs::metadata(&trace).unwrap().modified().unwrap(), recorded);
    assert_eq!(first["rows"][0]["lfps_bytes"], second["rows"][0]["lfps_bytes"]);
    assert!((0.5..1.0).contains(&first["rows"][0]["query_cosine_mean"].as_f64().unwrap()));
    assert!(std::fs::read_to_string(&plot).unwrap().contains("history alone"));
}

#[test]
fn a_trace_that_is_not_there_is_named() {
    let output = bench_index(Path::new("nowhere.safetensors"), &["--context", "1024"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("nowhere.safetensors"), "{}", stderr(&output));
}
