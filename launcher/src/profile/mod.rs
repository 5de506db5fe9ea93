//! What a run did when: a trace for Perfetto, a summary for scripts, a page for people.

mod chrome;
mod counters;
mod figure;
mod gpu;
mod link;
#[cfg(feature = "cuda")]
mod nvml;
mod page;
mod plots;
mod summary;
mod watch;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use hindsight_protocol::profile::{Event, read};
use hindsight_protocol::records::AttentionPolicy;
use serde::Serialize;

use crate::error::{Error, Exit};
use crate::supervise::Role;

pub use counters::{CounterFigures, CounterSample, Counters};
pub use gpu::{GpuFigures, ProfiledGpu, StreamFigures};
pub use link::{LinkFigures, LinkOfRun};
pub use summary::Summary;
pub use watch::Watch;

/// The folder that a profile is written to.
#[derive(Debug, Clone)]
pub struct ProfileFolder {
    path: PathBuf,
}

/// What was run.
#[derive(Debug, Clone, Serialize)]
pub struct ProfiledRun {
    /// The model, as the user named it.
    pub model: String,
    /// Which keys were attended to.
    pub attention: AttentionPolicy,
    /// Keys that each KV head selected, besides sink and window.
    pub top_k: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Bytes of keys and values of one token.
    pub token_bytes: u64,
    /// Bytes of a block of one KV head.
    pub block_bytes: u64,
    /// Layers of the model.
    #[serde(rename = "model_layers")]
    pub layers: u32,
    /// Bytes of the model's file, which travel to the device once.
    pub weight_bytes: u64,
    /// The GPU that computed; none if the device was the CPU. In the figures it is part of what it did.
    #[serde(skip)]
    pub gpu: Option<ProfiledGpu>,
}

/// Everything that the processes recorded.
#[derive(Debug)]
struct Recorded {
    worker: Vec<Event>,
    indexer: Vec<Event>,
    /// What the worker's GPU did; empty if the device was the CPU.
    gpu: Vec<Event>,
}

impl Recorded {
    fn new(worker: Vec<Event>, indexer: Vec<Event>) -> Self {
        let (gpu, worker) =
            worker.into_iter().partition(|event| event.activity.gpu_stream().is_some());
        Self { worker, indexer, gpu }
    }
}

impl ProfileFolder {
    /// Makes the folder; it must not hold anything yet.
    ///
    /// # Errors
    /// It cannot be made, or holds something.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let failed = |error: std::io::Error| unwritable(path, &error);
        fs::create_dir_all(path).map_err(failed)?;
        if fs::read_dir(path).map_err(failed)?.next().is_some() {
            let message = format!("{} holds something already", path.display());
            return Err(Error::new(Exit::Usage, "profile_exists", message)
                .with_hint("name another folder for the profile"));
        }
        let path = path.canonicalize().map_err(failed)?;
        Ok(Self { path })
    }

    /// The file that a child records its events in.
    #[must_use]
    pub fn events(&self, role: Role) -> PathBuf {
        self.path.join(role.name()).with_extension("events")
    }

    /// Turns what the children have recorded, when they have ended, into `trace.json`, `summary.json` and `report.html`.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn finish(&self, run: ProfiledRun, link: &LinkOfRun) -> Result<(), Error> {
        self.convert(run, link).map_err(|error| unwritable(&self.path, &error))
    }

    fn convert(&self, run: ProfiledRun, link: &LinkOfRun) -> std::io::Result<()> {
        let files = [Role::GpuWorker, Role::CpuIndexer].map(|role| self.events(role));
        let recorded = Recorded::new(read(&files[0])?, read(&files[1])?);
        let mut trace = BufWriter::new(File::create(self.path.join("trace.json"))?);
        chrome::write(run.gpu.as_ref(), &recorded, &mut trace)?;
        trace.flush()?;
        let summary = Summary::new(run, &recorded, link);
        fs::write(self.path.join("summary.json"), serde_json::to_vec(&summary)?)?;
        let figures = serde_json::to_value(&summary)?;
        let page = page::page(&summary, &figures, &recorded, &link.counters)
            .map_err(std::io::Error::other)?;
        fs::write(self.path.join("report.html"), page)?;
        files.iter().try_for_each(fs::remove_file)
    }
}

/// Nanoseconds as microseconds.
#[expect(clippy::cast_precision_loss, reason = "runs last less than a hundred days")]
pub(crate) fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}

fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    let message = format!("cannot write the profile {}: {error}", path.display());
    Error::new(Exit::Usage, "profile_unwritable", message)
}
