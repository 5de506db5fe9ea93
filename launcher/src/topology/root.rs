//! Where the system says what it is: `/sys` and `/proc`, or copies of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hindsight_cpu_indexer::placement::allowed_cores;

use super::cpu_list::CpuList;

/// A directory that holds `sys` and `proc`: `/`, or one with those of another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Root {
    /// This machine.
    #[must_use]
    pub fn machine() -> Self {
        Self(PathBuf::from("/"))
    }

    /// A copy of some machine's `sys` and `proc`.
    #[must_use]
    pub const fn copy(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// Whether this is the machine itself, not a copy.
    #[must_use]
    pub fn is_machine(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// The path of `path` (relative, as in `sys/devices`) under this root.
    #[must_use]
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.join(path)
    }

    /// A file's text without space around it; nothing if it cannot be read, as in containers that hide it.
    #[must_use]
    pub fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let bytes = fs::read(self.path(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// A file that holds one number or list.
    #[must_use]
    pub fn value<T: FromStr>(&self, path: impl AsRef<Path>) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// Value of a line `key: value` of a file.
    #[must_use]
    pub fn field(&self, path: impl AsRef<Path>, key: &str) -> Option<String> {
        let text = self.text(path)?;
        text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key).then(|| value.trim().to_owned())
        })
    }

    /// Names in a directory, sorted; none if it cannot be read.
    #[must_use]
    pub fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(path)) else {
            return Vec::new();
        };
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    /// Numbers `n` of the entries `prefix`n of a directory, ascending.
    pub(super) fn numbered(&self, path: impl AsRef<Path>, prefix: &str) -> Vec<u32> {
        let names = self.names(path);
        let mut numbers: Vec<u32> =
            names.iter().filter_map(|name| name.strip_prefix(prefix)?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    }

    /// CPUs that this process may use; a copy says it in `proc/self/status`.
    pub(super) fn allowed_cpus(&self) -> CpuList {
        if self.is_machine() {
            return allowed_cores().into_iter().collect();
        }
        self.status_list("Cpus_allowed_list").unwrap_or_default()
    }

    /// Nodes whose memory this process may use, if the system says so.
    pub(super) fn allowed_nodes(&self) -> Option<CpuList> {
        self.status_list("Mems_allowed_list")
    }

    fn status_list(&self, key: &str) -> Option<CpuList> {
        self.field("proc/self/status", key)?.parse().ok()
    }
}
