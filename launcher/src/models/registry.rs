//! The models known by name, and what `--model` may say.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// A model known by name: a GGUF file inside a wheel of a Python package.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The name that `--model` takes.
    pub name: String,
    /// What it is, in one line.
    pub description: String,
    /// SPDX identifier of the licence.
    pub licence: String,
    /// The Python package.
    pub package: String,
    /// The exact version of the package.
    pub version: String,
    /// Path of the model file inside the wheel.
    pub member: String,
    /// Size of the wheel in bytes, for progress and the check of free space.
    pub download_bytes: u64,
    /// Name of the model file in the models directory.
    pub file: String,
    /// Size of the model file in bytes.
    pub bytes: u64,
    /// SHA-256 of the model file, in lower-case hexadecimal.
    pub sha256: String,
}

#[derive(Deserialize)]
struct Registry {
    model: Vec<Entry>,
}

static REGISTRY: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    toml::from_str::<Registry>(include_str!("registry.toml"))
        .expect("registry.toml is part of the binary and a test parses it")
        .model
});

/// Every model known by name.
pub fn entries() -> &'static [Entry] {
    &REGISTRY
}

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// A model of the registry.
    Registered(Entry),
    /// A file of the user's.
    File(PathBuf),
    /// A file of a repository on the model hub.
    Hub(HubFile),
}

/// One file of a repository on the model hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// `owner/name`.
    pub repo: String,
    /// Path inside the repository.
    pub file: String,
}

impl fmt::Display for HubFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}/{}", self.repo, self.file)
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registered(entry) => f.write_str(&entry.name),
            Self::File(path) => path.display().fmt(f),
            Self::Hub(hub) => hub.fmt(f),
        }
    }
}

/// `--model` names nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Not a name of the registry, and not the form of a file.
    #[error("no model is called {name:?}; the known ones are: {known}", known = known_names())]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// `hf:` followed by something else than `owner/repo/file.gguf`.
    #[error("{spec:?} does not name a file on the hub; the form is hf:owner/repo/file.gguf")]
    MalformedHub {
        /// What was asked for.
        spec: String,
    },
}

impl ResolveError {
    /// A stable name of the variant for scripts.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "unknown_model",
            Self::MalformedHub { .. } => "malformed_hub_name",
        }
    }

    /// The way out.
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        Some("give a known name, FILE.gguf or hf:owner/repo/file.gguf".into())
    }
}

fn known_names() -> String {
    let names: Vec<&str> = entries().iter().map(|entry| entry.name.as_str()).collect();
    names.join(", ")
}

/// Reads `NAME`, `FILE.gguf` or `hf:owner/repo/file.gguf`.
///
/// A name of the registry comes first; anything with a slash, with the extension `gguf` or that exists is a file.
///
/// # Errors
/// [`ResolveError`] if `spec` has none of the three forms.
pub fn resolve(spec: &str) -> Result<ModelSource, ResolveError> {
    if let Some(rest) = spec.strip_prefix("hf:") {
        return hub_file(rest)
            .map(ModelSource::Hub)
            .ok_or_else(|| ResolveError::MalformedHub { spec: spec.to_owned() });
    }
    if let Some(entry) = entries().iter().find(|entry| entry.name == spec) {
        return Ok(ModelSource::Registered(entry.clone()));
    }
    let path = Path::new(spec);
    let is_gguf = path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("gguf"));
    if is_gguf || spec.contains('/') || path.exists() {
        return Ok(ModelSource::File(path.to_owned()));
    }
    Err(ResolveError::Unknown { name: spec.to_owned() })
}

fn hub_file(rest: &str) -> Option<HubFile> {
    let parts: Vec<&str> = rest.split('/').collect();
    let plain = |part: &&str| !part.is_empty() && *part != "." && *part != "..";
    let [owner, name, file @ ..] = parts.as_slice() else {
        return None;
    };
    let file_name = file.last()?;
    let is_gguf =
        file_name.len() > ".gguf".len() && file_name.to_ascii_lowercase().ends_with(".gguf");
    (is_gguf && parts.iter().all(plain))
        .then(|| HubFile { repo: format!("{owner}/{name}"), file: file.join("/") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_well_formed() {
        assert!(!entries().is_empty());
        for entry in entries() {
            assert_eq!(entry.sha256.len(), 64, "{}", entry.name);
            assert!(entry.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
            assert!(entry.file.ends_with(".gguf") && !entry.file.contains('/'));
            assert!(entry.bytes > 0 && entry.download_bytes > 0 && !entry.licence.is_empty());
        }
        for (i, entry) in entries().iter().enumerate() {
            assert!(entries()[..i].iter().all(|e| e.name != entry.name && e.file != entry.file));
        }
    }

    #[test]
    fn a_name_of_the_registry_resolves() {
        let ModelSource::Registered(entry) = resolve("smollm2-135m").unwrap() else { panic!() };
        assert_eq!(entry.licence, "Apache-2.0");
    }

    #[test]
    fn files_resolve_without_existing() {
        for spec in ["a.gguf", "/nowhere/b", "./smollm2-135m", "UPPER.GGUF"] {
            assert_eq!(resolve(spec).unwrap(), ModelSource::File(spec.into()), "{spec}");
        }
    }

    #[test]
    fn hub_files_resolve() {
        let ModelSource::Hub(hub) = resolve("hf:o/r/q4/m.gguf").unwrap() else { panic!() };
        assert_eq!((hub.repo.as_str(), hub.file.as_str()), ("o/r", "q4/m.gguf"));
        assert_eq!(hub.to_string(), "hf:o/r/q4/m.gguf");
        for spec in [
            "hf:",
            "hf:o/r",
            "hf:o/r/",
            "hf:o/r/m.bin",
            "hf:o//m.gguf",
            "hf:o/r/../m.gguf",
            "hf:o/r/.gguf",
        ] {
            assert!(matches!(resolve(spec), Err(ResolveError::MalformedHub { .. })), "{spec}");
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = resolve("smollm3").unwrap_err();
        let message = error.to_string();
        assert!(message.contains("smollm3") && message.contains("smollm2-135m"), "{message}");
    }
}
