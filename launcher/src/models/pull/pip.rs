//! Downloading a wheel with the ordinary pip client.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use super::super::registry::Entry;
use super::{Cancel, Progress, PullError, Stage};

const POLL: Duration = Duration::from_millis(50);

/// How many of pip's last lines an error shows.
const TAIL_LINES: usize = 6;

/// The commands that may be the pip client, in the order in which they are tried.
#[derive(Debug, Clone)]
pub struct Pip {
    candidates: Vec<Vec<OsString>>,
}

impl Default for Pip {
    /// `python3 -m pip`, `python -m pip`, `pip3`, `pip`.
    fn default() -> Self {
        let commands: [&[&str]; 4] =
            [&["python3", "-m", "pip"], &["python", "-m", "pip"], &["pip3"], &["pip"]];
        let candidates =
            commands.iter().map(|words| words.iter().map(OsString::from).collect()).collect();
        Self { candidates }
    }
}

impl Pip {
    /// Exactly this command (a program and its first arguments) and nothing else.
    pub fn command<W: Into<OsString>>(words: impl IntoIterator<Item = W>) -> Self {
        Self { candidates: vec![words.into_iter().map(Into::into).collect()] }
    }

    /// The first candidate that answers `--version`.
    fn find(&self, entry: &Entry) -> Result<Command, PullError> {
        let answers = |words: &Vec<OsString>| {
            let status = command(words)?
                .arg("--version")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            status.is_ok_and(|status| status.success()).then(|| command(words)).flatten()
        };
        self.candidates.iter().find_map(answers).ok_or_else(|| PullError::PipMissing {
            model: entry.name.clone(),
            tried: self.describe(),
        })
    }

    fn describe(&self) -> String {
        let commands: Vec<String> = self
            .candidates
            .iter()
            .map(|words| words.join(" ".as_ref()).display().to_string())
            .collect();
        commands.join(", ")
    }

    /// Downloads the wheel of `entry` somewhere below `dir` and returns its path.
    ///
    /// pip's own temporary files go below `dir` too, and its cache stays out of the way, so that all of a
    /// download is on the disk whose free space was checked and goes with `dir`.
    pub(super) fn download(
        &self,
        entry: &Entry,
        dir: &Path,
        cancel: &Cancel,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, PullError> {
        let (wheels, scratch, log) = (dir.join("wheel"), dir.join("tmp"), dir.join("pip.log"));
        for path in [&wheels, &scratch] {
            fs::create_dir(path).map_err(|e| PullError::io("create", path, e))?;
        }
        let output = File::create(&log).map_err(|e| PullError::io("create", &log, e))?;
        let output2 = output.try_clone().map_err(|e| PullError::io("open", &log, e))?;

        let mut command = self.find(entry)?;
        command
            .args(["download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input"])
            .args(["--disable-pip-version-check", "--progress-bar=off", "--dest"])
            .arg(&wheels)
            .arg(format!("{}=={}", entry.package, entry.version))
            .env("TMPDIR", &scratch)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(output2);
        let child = command.spawn().map_err(|e| PullError::io("start", program(&command), e))?;

        progress.begin(Stage::Download, &entry.name, Some(entry.download_bytes));
        let status = watch(Running(child), cancel, || {
            progress.at((bytes_in(&wheels) + bytes_in(&scratch)).min(entry.download_bytes));
        });
        progress.end();
        let status = status?;
        if !status.success() {
            return Err(failure(entry, dir, status, &tail(&log)));
        }
        find_wheel(&wheels).ok_or_else(|| PullError::PipFailed {
            package: entry.package.clone(),
            version: entry.version.clone(),
            status: "no wheel came".into(),
            tail: tail(&log),
        })
    }
}

fn command(words: &[OsString]) -> Option<Command> {
    let (program, arguments) = words.split_first()?;
    let mut command = Command::new(program);
    command.args(arguments);
    Some(command)
}

fn program(command: &Command) -> &Path {
    Path::new(command.get_program())
}

/// A child that does not outlive its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a child that has ended and been waited for.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn watch(
    mut child: Running,
    cancel: &Cancel,
    mut tick: impl FnMut(),
) -> Result<ExitStatus, PullError> {
    loop {
        let status =
            child.0.try_wait().map_err(|e| PullError::io("wait for", Path::new("pip"), e))?;
        tick();
        if let Some(status) = status {
            return Ok(status);
        }
        cancel.check()?;
        thread::sleep(POLL);
    }
}

fn failure(entry: &Entry, dir: &Path, status: ExitStatus, tail: &str) -> PullError {
    if tail.contains("No space left on device") {
        return PullError::DiskFull {
            dir: dir.parent().unwrap_or(dir).to_owned(),
            needed: Some(entry.download_bytes.saturating_add(entry.bytes)),
            free: None,
        };
    }
    PullError::PipFailed {
        package: entry.package.clone(),
        version: entry.version.clone(),
        status: status.to_string(),
        tail: tail.to_owned(),
    }
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> =
        text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

fn find_wheel(dir: &Path) -> Option<PathBuf> {
    let mut paths = fs::read_dir(dir).ok()?.filter_map(|item| Some(item.ok()?.path()));
    paths.find(|path| path.extension().is_some_and(|ext| ext == "whl"))
}

/// Bytes in the files below `dir`, for progress only: what vanishes meanwhile counts nothing.
fn bytes_in(dir: &Path) -> u64 {
    let Ok(items) = fs::read_dir(dir) else {
        return 0;
    };
    items
        .filter_map(|item| {
            let item = item.ok()?;
            let metadata = item.metadata().ok()?;
            Some(if metadata.is_dir() { bytes_in(&item.path()) } else { metadata.len() })
        })
        .sum()
}
