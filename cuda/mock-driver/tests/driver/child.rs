//! Programs that run in a process of their own, on the mock driver.

use std::env;
use std::io::{Write, stdout};
use std::process::Command;

use hindsight_cuda_mock_driver::Mock;

/// The variable that names a child's program.
pub(crate) const PROGRAM: &str = "HINDSIGHT_MOCK_PROGRAM";

pub(crate) type Programs = &'static [(&'static str, fn())];

/// What a child said.
pub(crate) struct Said {
    /// The argument of each `answer`.
    pub(crate) answers: Vec<String>,
    /// What the driver reported.
    pub(crate) reports: String,
}

/// Runs a program on a mock driver; it must not fail.
pub(crate) fn run(program: &str, mock: &Mock) -> Said {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "program", "--nocapture", "--test-threads=1"])
        .env(PROGRAM, program)
        .envs(mock.environment())
        .output()
        .unwrap();
    let (out, reports) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} on {mock:?}:\n{out}\n{reports}");
    let answers = out
        .lines()
        .filter_map(|line| line.split_once("answer: ").map(|(_, answer)| answer.to_owned()));
    Said { answers: answers.collect(), reports: reports.into_owned() }
}

/// Tells the test that started this program.
pub(crate) fn answer(text: impl std::fmt::Display) {
    let line = format!("answer: {text}\n");
    stdout().write_all(line.as_bytes()).unwrap();
}
