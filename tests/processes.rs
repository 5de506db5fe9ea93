//! Three processes: where they run, and what is left of them after any end.

mod support;

use std::process::{ExitStatus, Output};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{Started, is_alive, kill, start, status_field, stderr, telemetry_page, wait_until};

/// A run that goes on for a long time: the model counts, and has no reason to stop.
const LONG: [&str; 6] = ["--prompt", "1, 2, 3, 4, 5, 6, 7,", "--raw", "-n", "8000", "--quiet"];

/// Waits for the end of a run, then checks that nothing of it is left.
fn end(started: Started) -> Output {
    let Started { launcher, worker, indexer } = started;
    let pid = launcher.id();
    let output = launcher.wait_with_output().unwrap();
    assert_nothing_remains(pid, worker, indexer);
    output
}

fn assert_nothing_remains(launcher: u32, worker: u32, indexer: u32) {
    wait_until("the children are gone", || !is_alive(worker) && !is_alive(indexer));
    assert!(!telemetry_page(launcher).exists(), "the telemetry page is left");
}

/// Waits until the run decodes: both children have taken their places by then.
fn started() -> Started {
    let mut started = start(&LONG);
    let mut first = [0];
    let stdout = started.launcher.stdout.as_mut().unwrap();
    std::io::Read::read_exact(stdout, &mut first).unwrap();
    started
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap()
}

#[test]
fn the_indexer_keeps_to_one_core_and_the_worker_keeps_off_it() {
    let run = started();
    let cores = |pid| status_field(pid, "Cpus_allowed_list:").unwrap();
    let indexer = cores(run.indexer);
    assert!(indexer.parse::<u32>().is_ok(), "the indexer may use {indexer}");
    let available = std::thread::available_parallelism().unwrap().get();
    if available > 1 {
        assert_ne!(cores(run.worker), indexer);
    }
    assert!(telemetry_page(run.launcher.id()).exists());
    kill(run.launcher.id(), Signal::INT);
    end(run);
}

#[test]
fn shared_memory_has_no_name_but_the_telemetry_page() {
    let run = started();
    let prefix = format!("hindsight-{}", run.launcher.id());
    let names = std::fs::read_dir("/dev/shm").unwrap();
    let ours: Vec<_> = names
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect();
    assert_eq!(ours, [prefix]);
    kill(run.launcher.id(), Signal::INT);
    end(run);
}

#[test]
fn ctrl_c_ends_the_run_cleanly() {
    for signal in [Signal::INT, Signal::TERM] {
        let run = started();
        kill(run.launcher.id(), signal);
        let output = end(run);
        assert_eq!(code(output.status), 130, "{}", stderr(&output));
    }
}

#[test]
fn ctrl_c_while_the_prompt_is_read_ends_the_run_cleanly() {
    let prompt = support::book(20_000);
    let run = start(&["--prompt", prompt, "--quiet"]);
    std::thread::sleep(Duration::from_millis(500));
    kill(run.launcher.id(), Signal::INT);
    let output = end(run);
    assert_eq!(code(output.status), 130, "{}", stderr(&output));
}

#[test]
fn a_child_that_dies_is_named_with_its_cause_and_nothing_is_left() {
    type Pick = fn(&Started) -> u32;
    let children: [(&str, i32, Pick); 2] =
        [("gpu-worker", 8, |run| run.worker), ("cpu-indexer", 9, |run| run.indexer)];
    for (name, exit, pick) in children {
        for (signal, text) in [(Signal::KILL, "SIGKILL"), (Signal::ABORT, "SIGABRT")] {
            let run = started();
            kill(pick(&run), signal);
            let since = Instant::now();
            let output = end(run);
            let printed = stderr(&output);
            assert_eq!(code(output.status), exit, "{printed}");
            assert!(printed.contains(name) && printed.contains(text), "{printed}");
            assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
        }
    }
}

#[test]
fn children_do_not_outlive_a_killed_launcher() {
    let run = started();
    kill(run.launcher.id(), Signal::KILL);
    end(run);
}

#[test]
fn the_page_of_a_run_that_was_killed_all_at_once_goes_with_the_next_run() {
    let Started { mut launcher, worker, indexer } = started();
    kill(launcher.id(), Signal::STOP);
    for pid in [worker, indexer, launcher.id()] {
        kill(pid, Signal::KILL);
    }
    launcher.wait().unwrap();
    let next = started();
    kill(next.launcher.id(), Signal::INT);
    end(next);
    assert_nothing_remains(launcher.id(), worker, indexer);
}

#[test]
fn a_reader_that_goes_away_ends_the_run() {
    let mut run = started();
    drop(run.launcher.stdout.take());
    let output = end(run);
    assert!(output.status.code().is_some(), "{}", stderr(&output));
}
