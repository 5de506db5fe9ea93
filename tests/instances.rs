//! `hindsight top` and `hindsight metrics` look at a run while it goes on.

mod support;

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{hindsight, model, stderr};

/// A run that is ended with the test.
struct Run(Child);

impl Drop for Run {
    fn drop(&mut self) {
        // The launcher ends its children.
        let interrupted = std::process::Command::new("kill").arg(self.0.id().to_string()).status();
        assert!(interrupted.is_ok());
        let _ = self.0.wait();
    }
}

fn top(pid: u32) -> std::process::Output {
    hindsight().args(["top", "--json", "-d", "0.3", &pid.to_string()]).output().unwrap()
}

#[test]
fn a_run_is_seen_while_it_decodes() {
    let run = hindsight()
        .args(["run", "--raw", "--prompt", "1, 2, 3, 4, 5, 6,", "-n", "5000", "--model"])
        .arg(model())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let run = Run(run);
    let pid = run.0.id();
    let patient = Instant::now();
    let rates = loop {
        let output = top(pid);
        if output.status.success() {
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(report["pid"], pid);
            if report["rates"]["decode_tokens_per_s"].as_f64().unwrap() > 0.0 {
                break report["rates"].clone();
            }
        }
        assert!(patient.elapsed() < Duration::from_secs(120), "{}", stderr(&output));
    };
    let number = |name: &str| rates[name].as_f64().unwrap();
    assert!(number("step_us") > 0.0 && number("attention_us") < number("step_us"), "{rates}");
    assert!(number("link_bytes_per_s") > 0.0, "{rates}");

    let output = hindsight().arg("metrics").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let tokens = format!("hindsight_generation_tokens_total{{pid=\"{pid}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&tokens)).unwrap();
    assert!(line.parse::<f64>().unwrap() > 0.0);
}

#[test]
fn an_instance_that_is_not_there_is_an_error_that_names_it() {
    let output = top(4_000_000_000);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("4000000000"), "{}", stderr(&output));
}

#[test]
fn an_instance_of_another_version_is_warned_of() {
    let pid = std::process::id();
    let page = format!("/dev/shm/hindsight-{pid}");
    std::fs::write(&page, [0; 4096]).unwrap();
    let metrics = hindsight().arg("metrics").output().unwrap();
    let top = top(pid);
    std::fs::remove_file(&page).unwrap();
    assert!(metrics.status.success());
    assert!(!String::from_utf8(metrics.stdout.clone()).unwrap().contains(&format!("{pid}")));
    assert_eq!(top.status.code(), Some(2));
    for output in [metrics, top] {
        let warning = stderr(&output);
        assert!(
            warning.contains("another version") && warning.contains(&pid.to_string()),
            "{warning}"
        );
    }
}
