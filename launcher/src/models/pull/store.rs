//! The place of one model file in the models directory: lock, temporary directory, rename, record of verification.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::super::registry::Entry;
use super::{Cancel, PullError};

const LOCK_POLL: Duration = Duration::from_millis(100);

/// Room left free beyond what a download needs, for the file system's own records.
const SPARE_BYTES: u64 = 1 << 20;

/// Where one model file lives.
pub(super) struct Slot {
    dir: PathBuf,
    path: PathBuf,
    file: String,
}

/// Proof of an earlier verification: it holds while size and modification time of the file stay the same.
#[derive(PartialEq, Serialize, Deserialize)]
struct Record {
    sha256: String,
    bytes: u64,
    modified_ns: u128,
}

impl Slot {
    pub(super) fn new(dir: &Path, file: &str) -> Self {
        Self { dir: dir.to_owned(), path: dir.join(file), file: file.to_owned() }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn into_path(self) -> PathBuf {
        self.path
    }

    pub(super) fn create_dir(&self) -> Result<(), PullError> {
        fs::create_dir_all(&self.dir).map_err(|e| PullError::io("create", &self.dir, e))
    }

    /// Waits until no other process pulls this model; `on_wait` is called once if there is one.
    ///
    /// The lock is released when the returned file is closed, also by the death of the process. The empty lock
    /// file stays: removing it would let two processes lock two files of one name.
    pub(super) fn lock(&self, cancel: &Cancel, on_wait: impl FnOnce()) -> Result<File, PullError> {
        let path = self.dir.join(format!(".{}.lock", self.file));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| PullError::io("open", &path, e))?;
        let mut on_wait = Some(on_wait);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(e)) => return Err(PullError::io("lock", &path, e)),
                Err(TryLockError::WouldBlock) => {}
            }
            if let Some(on_wait) = on_wait.take() {
                on_wait();
            }
            cancel.check()?;
            thread::sleep(LOCK_POLL);
        }
    }

    fn temp_prefix(&self) -> String {
        format!(".{}.pull-", self.file)
    }

    /// A temporary directory beside the models, removed when dropped.
    pub(super) fn temp_dir(&self) -> Result<TempDir, PullError> {
        tempfile::Builder::new()
            .prefix(&self.temp_prefix())
            .tempdir_in(&self.dir)
            .map_err(|e| PullError::io("create a directory in", &self.dir, e))
    }

    /// Removes what killed pulls of this model left behind. The caller holds the lock.
    pub(super) fn sweep(&self) -> Result<(), PullError> {
        let read_error = |e| PullError::io("read", &self.dir, e);
        let prefix = self.temp_prefix();
        for item in fs::read_dir(&self.dir).map_err(read_error)? {
            let item = item.map_err(read_error)?;
            if item.file_name().to_string_lossy().starts_with(&prefix) {
                let path = item.path();
                fs::remove_dir_all(&path).map_err(|e| PullError::io("remove", &path, e))?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// [`PullError::DiskFull`] if the file system of the models directory has less than `needed` bytes.
    pub(super) fn check_space(&self, needed: u64) -> Result<(), PullError> {
        let stat = rustix::fs::statvfs(&self.dir)
            .map_err(|e| PullError::io("ask for free space in", &self.dir, e.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let needed = needed.saturating_add(SPARE_BYTES);
        if free < needed {
            return Err(PullError::DiskFull {
                dir: self.dir.clone(),
                needed: Some(needed),
                free: Some(free),
            });
        }
        Ok(())
    }

    /// Gives the whole and verified file `from`, on the same file system, its place, durably.
    pub(super) fn install(&self, from: &Path) -> Result<(), PullError> {
        fs::rename(from, &self.path).map_err(|e| PullError::io("rename to", &self.path, e))?;
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|e| PullError::io("sync", &self.dir, e))
    }

    fn record_path(&self) -> PathBuf {
        self.dir.join(format!("{}.verified", self.file))
    }

    fn current_record(&self, entry: &Entry) -> Option<Record> {
        let metadata = fs::metadata(&self.path).ok()?;
        let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Record {
            sha256: entry.sha256.clone(),
            bytes: metadata.len(),
            modified_ns: modified.as_nanos(),
        })
    }

    /// Whether the file is there, as long as `entry` says, and unchanged since its hash was last checked.
    pub(super) fn is_remembered(&self, entry: &Entry) -> bool {
        let Some(current) = self.current_record(entry) else {
            return false;
        };
        let recorded = fs::read(self.record_path())
            .ok()
            .and_then(|json| serde_json::from_slice::<Record>(&json).ok());
        current.bytes == entry.bytes && recorded == Some(current)
    }

    /// Records that the file has the hash of `entry`.
    ///
    /// A record that cannot be written (a read-only directory) only means hashing again the next time.
    pub(super) fn remember(&self, entry: &Entry) {
        let Some(record) = self.current_record(entry) else {
            return;
        };
        let written = serde_json::to_vec(&record)
            .map_err(std::io::Error::from)
            .and_then(|json| fs::write(self.record_path(), json));
        if let Err(error) = written {
            tracing::debug!(%error, path = %self.record_path().display(), "verification not recorded");
        }
    }
}
