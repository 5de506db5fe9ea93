//! Files of a machine, for tests.

use std::fs;

use tempfile::TempDir;

use super::root::Root;

/// A copy of a machine that has only these files.
pub(crate) fn root(files: &[(&str, &str)]) -> (TempDir, Root) {
    let directory = TempDir::new().unwrap();
    for (path, text) in files {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let root = Root::copy(directory.path().to_owned());
    (directory, root)
}
