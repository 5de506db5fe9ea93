//! The machine as `hindsight topology` shows it.

mod support;

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use support::machine::Machine;
use support::{hindsight, stderr};

fn topology(arguments: &[&str], root: Option<&Path>) -> Output {
    let mut command = hindsight();
    command.arg("topology").args(arguments);
    if let Some(root) = root {
        command.arg("--root").arg(root);
    }
    command.output().unwrap()
}

fn json(root: Option<&Path>) -> Value {
    let output = topology(&["--json"], root);
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn drawing(root: Option<&Path>) -> String {
    let output = topology(&[], root);
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn this_machine_is_shown_with_a_core_for_the_indexer() {
    let report = json(None);
    let core = report["choice"]["indexer_core"]["value"].as_u64().unwrap();
    let allowed = support::status_field(std::process::id(), "Cpus_allowed_list:").unwrap();
    assert_eq!(report["allowed_cpus"], allowed);
    assert!(report["nodes"][0]["memory_bytes"].as_u64().unwrap() > 0);
    let drawing = drawing(None);
    assert!(drawing.contains("node 0"), "{drawing}");
    assert!(drawing.contains(&format!("{core}I")), "{drawing}");
}

#[test]
fn another_machine_is_shown_from_a_copy_of_what_it_says() {
    let machine = Machine::two_socket_xeon();
    let report = json(Some(machine.path()));
    assert_eq!(report["choice"]["indexer_core"]["value"], 14);
    assert_eq!(report["choice"]["worker_cpus"]["value"], "0-13,15");
    assert_eq!(report["choice"]["arena_node"]["value"], 0);
    let gpu = &report["gpus"][0];
    assert_eq!((gpu["address"].as_str(), &gpu["node"]), (Some("0000:3b:00.0"), &Value::from(0)));
    assert_eq!((&gpu["link"]["generation"], &gpu["link"]["width"]), (&3.into(), &16.into()));
    assert_eq!(gpu["link_max"]["generation"], 4);

    let drawing = drawing(Some(machine.path()));
    for part in [
        "Imagined Processor: 2 nodes, 16 cores, 32 of 32 CPUs usable",
        "caches L1 16 x 32 KiB, L2 16 x 1 MiB, L3 2 x 33 MiB",
        "╭─ node 0, socket 0, 95.75 GiB (47.88 GiB free), arena",
        "│ L3 33 MiB   0w/16·",
        "14I/30·",
        "╞═ GPU 0000:3b:00.0 NVIDIA A30, PCIe 3.0 x16 (15.8 GB/s) now, PCIe 4.0 x16 (31.5 GB/s) at most",
        "╭─ node 1, socket 1, 96.00 GiB (48.00 GiB free)\n",
        "indexer  CPU  14",
    ] {
        assert!(drawing.contains(part), "{part:?} is not in\n{drawing}");
    }
}

#[test]
fn a_containers_limits_are_shown() {
    let machine = Machine::container();
    let drawing = drawing(Some(machine.path()));
    for part in [
        "3 of 32 CPUs usable",
        "control group: 8.00 GiB of memory, 6.00 GiB left",
        "node 0, socket 0, 95.75 GiB (47.88 GiB free), not this process's",
        "3w/19·",
        "5I/21x",
    ] {
        assert!(drawing.contains(part), "{part:?} is not in\n{drawing}");
    }
}

#[test]
fn a_directory_that_holds_no_machine_is_refused() {
    let nothing = tempfile::tempdir().unwrap();
    let output = topology(&["--json"], Some(nothing.path()));
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["kind"], "no_cores");
}
