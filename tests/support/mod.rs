//! Starting the real program, and looking at what it did.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]

pub mod machine;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The program under test, with nothing of the caller's environment that would change what it does.
pub fn hindsight() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hindsight"));
    for variable in [
        "HINDSIGHT_DEVICE",
        "HINDSIGHT_GPU_KV_BYTES",
        "HINDSIGHT_INDEXER_CORE",
        "HINDSIGHT_MODEL",
        "HINDSIGHT_THREADS",
        "RUST_LOG",
    ] {
        command.env_remove(variable);
    }
    command
}

/// The default model's file, pulled first if it is not there.
pub fn model() -> &'static Path {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| {
        let output = hindsight().args(["pull", "smollm2-135m", "--quiet"]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    })
}

/// What the program wrote to standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The error that a command printed which failed with the given exit code.
pub fn error(output: &Output, exit: i32) -> Value {
    let printed = stderr(output);
    assert_eq!(output.status.code(), Some(exit), "{printed}");
    let line = printed.lines().last().unwrap_or_default();
    let mut error: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{printed}"));
    error["error"].take()
}

/// The kind of such an error, and its message with the hint; nothing else may have been printed as a result.
pub fn refused(output: &Output, exit: i32) -> (String, String) {
    let error = error(output, exit);
    assert!(output.stdout.is_empty());
    let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    (text("kind"), format!("{} ({})", text("message"), text("hint")))
}

/// Runs `hindsight run --json` on a prompt given on standard input; it must succeed.
pub fn run_json(prompt: &str, arguments: &[&str]) -> Value {
    let output = run_with_input(prompt.as_bytes(), arguments);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs `hindsight run --json` with bytes on standard input.
pub fn run_with_input(input: &[u8], arguments: &[&str]) -> Output {
    let mut child = hindsight()
        .args(["run", "--json", "--model"])
        .arg(model())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program may refuse its arguments before it reads its input.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// Token ids of a run's text.
pub fn token_ids(run: &Value) -> Vec<u64> {
    run["token_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

/// A started run whose processes can be looked at.
pub struct Started {
    pub launcher: Child,
    pub worker: u32,
    pub indexer: u32,
}

/// Starts a run and waits until both children are there.
pub fn start(arguments: &[&str]) -> Started {
    let launcher = hindsight()
        .args(["run", "--model"])
        .arg(model())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = launcher.id();
    let find =
        |role: &str| children(pid).into_iter().find(|&child| command_line(child).contains(role));
    let (mut worker, mut indexer) = (None, None);
    wait_until("both children run", || {
        worker = worker.or_else(|| find("gpu-worker"));
        indexer = indexer.or_else(|| find("cpu-indexer"));
        worker.is_some() && indexer.is_some()
    });
    Started { launcher, worker: worker.unwrap(), indexer: indexer.unwrap() }
}

/// Waits for `condition`; fails after a minute, which no machine needs.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Process ids of the children of `parent`.
pub fn children(parent: u32) -> Vec<u32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|&pid| parent_of(pid) == Some(parent))
        .collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    status_field(pid, "PPid:")?.parse().ok()
}

/// A field of `/proc/PID/status`.
pub fn status_field(pid: u32, field: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().to_owned())
}

/// Whether a process exists and is not merely waiting to be reaped.
pub fn is_alive(pid: u32) -> bool {
    status_field(pid, "State:").is_some_and(|state| !state.starts_with('Z'))
}

fn command_line(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

/// Sends a signal to a process.
pub fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// The telemetry page of a launcher, where shared memory has names.
pub fn telemetry_page(launcher: u32) -> PathBuf {
    PathBuf::from(format!("/dev/shm/hindsight-{launcher}"))
}

/// The first `characters` characters of the text that is shipped with the project.
pub fn book(characters: usize) -> &'static str {
    let text = include_str!("../../examples/alice.txt");
    &text[..text.floor_char_boundary(characters)]
}
