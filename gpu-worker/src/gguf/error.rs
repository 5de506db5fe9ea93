//! Why a GGUF file is refused.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

/// A GGUF file cannot be used. Every message names the file.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// There is no such file.
    #[error("{}: no such file", path.display())]
    NotFound {
        /// The file.
        path: PathBuf,
    },
    /// A directory, a device or a pipe.
    #[error("{}: not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file does not begin with the magic bytes `GGUF`.
    #[error("{}: not a GGUF file (it begins with {found})", path.display())]
    NotGguf {
        /// The file.
        path: PathBuf,
        /// Its first bytes, readable.
        found: String,
    },
    /// A version of the format that is not read.
    #[error("{}: GGUF version {version} is not supported (supported: 2 and 3, little-endian)", path.display())]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// The version it states.
        version: u32,
    },
    /// The file ends before what it announces.
    #[error("{}: truncated: {what} needs {needed} bytes, the file has {found}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What lies beyond the end.
        what: String,
        /// Size in bytes that the file would need at least.
        needed: u64,
        /// Its size in bytes.
        found: u64,
    },
    /// A count or a length that no real model has.
    #[error("{}: damaged or hostile: {what} is {value}, the limit is {limit}", path.display())]
    Absurd {
        /// The file.
        path: PathBuf,
        /// What is counted.
        what: String,
        /// The stated value.
        value: u64,
        /// The largest value accepted.
        limit: u64,
    },
    /// The structure breaks a rule of the format.
    #[error("{}: malformed: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The broken rule.
        reason: String,
    },
    /// A tensor is stored in a type that is not read.
    #[error("{}: tensor {tensor} has the unsupported type {ggml_type}", path.display())]
    UnsupportedTensorType {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The number of the type in ggml.
        ggml_type: u32,
    },
    /// A key is needed and not there.
    #[error("{}: the metadata has no {key}", path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A key has a value of another type than the format prescribes.
    #[error("{}: the metadata key {key} is not {expected}", path.display())]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Reading failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl GgufError {
    pub(super) fn from_open(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path },
            _ => Self::Io { path, source },
        }
    }

    /// A stable name of the variant for scripts.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "no_such_file",
            Self::NotAFile { .. } => "not_a_file",
            Self::NotGguf { .. } => "not_gguf",
            Self::UnsupportedVersion { .. } => "gguf_version",
            Self::Truncated { .. } => "gguf_truncated",
            Self::Absurd { .. } => "gguf_absurd",
            Self::Malformed { .. } => "gguf_malformed",
            Self::UnsupportedTensorType { .. } => "gguf_tensor_type",
            Self::MissingKey { .. } | Self::WrongType { .. } => "gguf_metadata",
            Self::Io { .. } => "io",
        }
    }

    /// The way out.
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        let hint = match self {
            Self::NotFound { .. } => {
                "check the path; `hindsight pull --list` shows the models known by name"
            }
            Self::NotAFile { .. } | Self::NotGguf { .. } => {
                "give a model in the GGUF format (safetensors and PyTorch files must be converted first)"
            }
            Self::UnsupportedVersion { .. } | Self::MissingKey { .. } | Self::WrongType { .. } => {
                "convert the model again with a current converter"
            }
            Self::Truncated { .. } => "the download or copy was cut short: fetch the file again",
            Self::Absurd { .. } | Self::Malformed { .. } => {
                "the file is damaged: fetch it again from a source you trust"
            }
            Self::UnsupportedTensorType { .. } => {
                "choose another quantisation: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 or Q2_K to Q6_K"
            }
            Self::Io { .. } => return None,
        };
        Some(hint.into())
    }
}
