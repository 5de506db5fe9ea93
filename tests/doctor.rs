//! The machine as `hindsight doctor` judges it.

mod support;

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use support::machine::Machine;
use support::{hindsight, stderr};

fn doctor(arguments: &[&str], root: &Path) -> Output {
    hindsight().arg("doctor").args(arguments).arg("--root").arg(root).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(output)))
}

#[test]
fn this_machine_is_examined_and_the_exit_code_tells_what_the_report_says() {
    let output = hindsight().args(["doctor", "--json"]).output().unwrap();
    let report = json(&output);
    let expected = match report["worst"].as_str().unwrap() {
        "good" | "unknown" => 0,
        "slower" => 10,
        other => panic!("tests run on this machine, but it is {other}: {report}"),
    };
    assert_eq!(output.status.code(), Some(expected));
    let checks = report["checks"].as_array().unwrap();
    for name in
        ["cpu features", "cores", "governor", "memory", "numa", "huge pages", "/dev/shm", "gpu"]
    {
        let check = checks.iter().find(|check| check["name"] == name);
        assert!(check.is_some_and(|check| !check["found"].as_str().unwrap().is_empty()), "{name}");
    }
}

#[test]
fn a_fault_is_told_with_its_consequence_and_what_mends_it() {
    let machine = Machine::two_socket_xeon();
    machine.file("dev/shm/.keep", "");
    machine.file("sys/bus/pci/devices/0000:3b:00.0/current_link_width", "4");
    let output = doctor(&[], machine.path());
    assert_eq!(output.status.code(), Some(10), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "slower   gpu link",
        "0000:3b:00.0: 4 of 16 lanes",
        "blocks travel at 4/16 of the speed that the GPU could have",
        "mend: sudo lspci -vv -s 0000:3b:00.0",
        "Hindsight runs, but could do better",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn a_machine_on_which_runs_would_fail_has_an_exit_code_of_its_own() {
    let machine = Machine::laptop();
    let output = doctor(&["--json"], machine.path());
    assert_eq!(output.status.code(), Some(11), "{}", stderr(&output));
    let report = json(&output);
    assert_eq!(report["worst"], "broken");
    let checks = report["checks"].as_array().unwrap();
    let shm = checks.iter().find(|check| check["name"] == "/dev/shm").unwrap();
    assert_eq!((shm["state"].as_str(), shm["found"].as_str()), (Some("broken"), Some("not there")));
    assert!(shm["mend"].as_str().unwrap().contains("mount"), "{shm}");
}
