//! Where Hindsight keeps what it downloads.

use std::env;
use std::path::{Path, PathBuf};

/// The root of the user's cache: `$HINDSIGHT_HOME`, else `$XDG_CACHE_HOME/hindsight`, else `$HOME/.cache/hindsight`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

/// Neither `HINDSIGHT_HOME` nor `XDG_CACHE_HOME` nor `HOME` names a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no cache directory: none of HINDSIGHT_HOME, XDG_CACHE_HOME and HOME is set to an absolute path"
)]
pub struct NoHome;

impl Home {
    /// A home at `root`, which need not exist yet.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The home that the environment names.
    ///
    /// `HINDSIGHT_HOME` may be relative to the working directory. A relative `XDG_CACHE_HOME` is ignored, as its
    /// specification demands.
    ///
    /// # Errors
    /// [`NoHome`] if no variable gives a directory.
    pub fn from_env() -> Result<Self, NoHome> {
        Self::from_vars(|name| env::var_os(name).map(PathBuf::from))
    }

    fn from_vars(var: impl Fn(&str) -> Option<PathBuf>) -> Result<Self, NoHome> {
        let set = |name| var(name).filter(|path| !path.as_os_str().is_empty());
        let absolute = |name| set(name).filter(|path| path.is_absolute());
        set("HINDSIGHT_HOME")
            .or_else(|| absolute("XDG_CACHE_HOME").map(|cache| cache.join("hindsight")))
            .or_else(|| absolute("HOME").map(|home| home.join(".cache").join("hindsight")))
            .map(Self::at)
            .ok_or(NoHome)
    }

    /// The root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of the verified model files.
    pub fn models(&self) -> PathBuf {
        self.root.join("models")
    }

    /// The directory of recordings that commands make for themselves.
    pub fn traces(&self) -> PathBuf {
        self.root.join("traces")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(vars: &[(&str, &str)]) -> Result<Home, NoHome> {
        Home::from_vars(|name| {
            vars.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value))
        })
    }

    #[test]
    fn the_most_specific_variable_wins() {
        let all = [("HINDSIGHT_HOME", "mine"), ("XDG_CACHE_HOME", "/xdg"), ("HOME", "/home/u")];
        assert_eq!(home(&all).unwrap().root(), Path::new("mine"));
        assert_eq!(home(&all[1..]).unwrap().root(), Path::new("/xdg/hindsight"));
        assert_eq!(home(&all[2..]).unwrap().models(), Path::new("/home/u/.cache/hindsight/models"));
    }

    #[test]
    fn empty_and_relative_values_are_passed_over() {
        let vars = [("HINDSIGHT_HOME", ""), ("XDG_CACHE_HOME", "cache"), ("HOME", "/home/u")];
        assert_eq!(home(&vars).unwrap().root(), Path::new("/home/u/.cache/hindsight"));
        assert_eq!(home(&[("HOME", "")]), Err(NoHome));
    }
}
