//! Files of the model hub, through its own cache.
//!
//! `HF_HOME` and `HF_HUB_CACHE` place the cache, `HF_TOKEN` (or the token file of the hub's own tools) opens private
//! repositories, `HF_ENDPOINT` names another hub, and `HF_HUB_OFFLINE` forbids the network.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use hf_hub::Cache;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};

use super::super::home::NoHome;
use super::super::registry::HubFile;
use super::{Cancel, Progress, PullError, Stage, hash_file};

const POLL: Duration = Duration::from_millis(50);

/// How to reach the hub.
struct Hub {
    cache: PathBuf,
    endpoint: Option<String>,
    token: Option<String>,
    offline: bool,
}

/// The path of `file` in the hub's cache, downloaded and verified first if need be.
pub(super) fn pull(
    file: &HubFile,
    cancel: &Cancel,
    progress: &mut dyn Progress,
) -> Result<PathBuf, PullError> {
    Hub::from_env()?.pull(file, cancel, progress)
}

impl Hub {
    fn from_env() -> Result<Self, NoHome> {
        let var = |name| env::var(name).ok().filter(|value: &String| !value.is_empty());
        let path = |name| var(name).map(PathBuf::from);
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HF_HOME").map(|home| home.join("hub")))
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
            .or_else(|| path("HOME").map(|home| home.join(".cache/huggingface/hub")))
            .ok_or(NoHome)?;
        let offline = var("HF_HUB_OFFLINE").is_some_and(|value| value != "0");
        Ok(Self { cache, endpoint: var("HF_ENDPOINT"), token: var("HF_TOKEN"), offline })
    }

    fn pull(
        &self,
        file: &HubFile,
        cancel: &Cancel,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, PullError> {
        let cache = Cache::new(self.cache.clone());
        if let Some(path) = cache.model(file.repo.clone()).get(&file.file) {
            return Ok(path);
        }
        if self.offline {
            return Err(PullError::HubUnreachable {
                file: file.to_string(),
                cause: "HF_HUB_OFFLINE is set and the file is not in the cache".into(),
            });
        }
        let mut builder = ApiBuilder::from_cache(cache.clone()).with_progress(false);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        let token = self.token.clone().or_else(|| cache.token());
        let api = builder.with_token(token).build().map_err(|e| self.explain(file, e))?;
        let path = self.download(api.model(file.repo.clone()), file, cancel, progress)?;
        verify(&path, file, cancel, progress)?;
        Ok(path)
    }

    /// Downloads in a thread of its own, so that a cancelled pull need not wait for a stalled connection: the
    /// thread is left to itself then, and what it has written is a `.part` file that a later download goes on with.
    fn download(
        &self,
        repo: ApiRepo,
        file: &HubFile,
        cancel: &Cancel,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, PullError> {
        let counters = Arc::new(Counters::default());
        let (seen, path) = (Counting(Arc::clone(&counters)), file.file.clone());
        let worker = thread::spawn(move || repo.download_with_progress(&path, seen));

        let mut total = 0;
        while !worker.is_finished() {
            cancel.check()?;
            let known = counters.total.load(Ordering::Relaxed);
            if known != total {
                total = known;
                progress.begin(Stage::Download, &file.to_string(), Some(total));
            }
            progress.at(counters.done.load(Ordering::Relaxed));
            thread::sleep(POLL);
        }
        progress.end();
        match worker.join() {
            Ok(result) => result.map_err(|e| self.explain(file, e)),
            Err(_) => Err(PullError::HubUnreachable {
                file: file.to_string(),
                cause: "the client failed on an unexpected answer".into(),
            }),
        }
    }

    fn explain(&self, file: &HubFile, error: ApiError) -> PullError {
        let name = file.to_string();
        match error {
            ApiError::RequestError(request) => match *request {
                ureq::Error::StatusCode(404) => PullError::HubNotFound { file: name },
                ureq::Error::StatusCode(status @ (401 | 403)) => {
                    PullError::HubDenied { file: name, status }
                }
                other => PullError::HubUnreachable { file: name, cause: other.to_string() },
            },
            ApiError::IoError(e) if e.kind() == io::ErrorKind::StorageFull => {
                PullError::DiskFull { dir: self.cache.clone(), needed: None, free: None }
            }
            other => PullError::HubUnreachable { file: name, cause: other.to_string() },
        }
    }
}

/// Checks a downloaded file against the hash that the hub gives for large files: it is the name of the blob.
///
/// A file that fails is removed from the cache.
fn verify(
    path: &Path,
    file: &HubFile,
    cancel: &Cancel,
    progress: &mut dyn Progress,
) -> Result<(), PullError> {
    let blob = fs::canonicalize(path).map_err(|e| PullError::io("open", path, e))?;
    let expected = blob.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let is_sha256 = expected.len() == 64 && expected.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_sha256 {
        return Ok(());
    }
    let found = hash_file(&blob, &file.to_string(), cancel, progress)?;
    if found.eq_ignore_ascii_case(&expected) {
        return Ok(());
    }
    for wrong in [path, &blob] {
        fs::remove_file(wrong).map_err(|e| PullError::io("remove", wrong, e))?;
    }
    Err(PullError::WrongHash { model: file.to_string(), expected, found })
}

#[derive(Default)]
struct Counters {
    total: AtomicU64,
    done: AtomicU64,
}

struct Counting(Arc<Counters>);

impl hf_hub::api::Progress for Counting {
    fn init(&mut self, size: usize, _filename: &str) {
        self.0.total.store(size as u64, Ordering::Relaxed);
        self.0.done.store(0, Ordering::Relaxed);
    }

    fn update(&mut self, size: usize) {
        self.0.done.fetch_add(size as u64, Ordering::Relaxed);
    }

    fn finish(&mut self) {}
}

#[cfg(test)]
mod tests;
