//! Files that a command writes: whole, or not at all.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::error::{Error, Exit};

/// A file to be written, and whether it may replace one.
#[derive(Debug, Clone)]
pub(super) struct Output {
    path: PathBuf,
    replace: bool,
}

impl Output {
    /// Checks that the file can be written, so that long work is not done for nothing.
    ///
    /// # Errors
    /// The file exists and must not be replaced, or its directory does not exist or cannot be written to.
    pub(super) fn new(path: PathBuf, replace: bool) -> Result<Self, Error> {
        let output = Self { path, replace };
        if output.path.is_dir() {
            return Err(output.unwritable(Exit::Usage, "it is a directory"));
        }
        if !replace && output.path.exists() {
            return Err(output.exists());
        }
        access(output.directory(), Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|error| output.unwritable(Exit::Usage, io::Error::from(error)))?;
        Ok(output)
    }

    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the file under another name beside its own, and gives it its own once it is whole. Returns its length.
    ///
    /// # Errors
    /// The system refuses, or in the meantime the file has come to exist.
    pub(super) fn write(
        &self,
        contents: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
    ) -> Result<u64, Error> {
        let fault = |error: io::Error| self.unwritable(Exit::Internal, error);
        let temporary = tempfile::Builder::new()
            .prefix(".hindsight-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(self.directory())
            .map_err(fault)?;
        let mut writer = BufWriter::new(temporary.as_file());
        contents(&mut writer).and_then(|()| writer.flush()).map_err(fault)?;
        drop(writer);
        let length = temporary.as_file().metadata().map_err(fault)?.len();
        let persisted = if self.replace {
            temporary.persist(&self.path)
        } else {
            temporary.persist_noclobber(&self.path)
        };
        match persisted {
            Ok(_) => Ok(length),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(self.exists()),
            Err(error) => Err(fault(error.error)),
        }
    }

    fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        }
    }

    fn exists(&self) -> Error {
        let message = format!("{} exists already", self.path.display());
        Error::new(Exit::Usage, "output_exists", message)
            .with_hint("choose another name, or replace it with --force")
    }

    fn unwritable(&self, exit: Exit, reason: impl std::fmt::Display) -> Error {
        let message = format!("cannot write {}: {reason}", self.path.display());
        Error::new(exit, "output_unwritable", message)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_written_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("figures");
        let output = Output::new(path.clone(), false).unwrap();
        let failed = output.write(|file| {
            file.write_all(b"half of")?;
            Err(io::Error::other("no more"))
        });
        assert!(failed.unwrap_err().message.contains("no more"));
        assert!(names(directory.path()).is_empty());
        assert_eq!(output.write(|file| file.write_all(b"whole")).unwrap(), 5);
        assert_eq!(names(directory.path()), ["figures"]);
        assert_eq!(fs::read(path).unwrap(), b"whole");
    }

    #[test]
    fn a_file_is_replaced_only_on_request() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("figures");
        let early = Output::new(path.clone(), false).unwrap();
        fs::write(&path, "mine").unwrap();
        assert_eq!(Output::new(path.clone(), false).unwrap_err().kind, "output_exists");
        assert_eq!(early.write(|_| Ok(())).unwrap_err().kind, "output_exists");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        Output::new(path.clone(), true).unwrap().write(|file| file.write_all(b"new")).unwrap();
        assert_eq!(fs::read(path).unwrap(), b"new");
    }

    #[test]
    fn what_cannot_be_written_is_said_before_the_work() {
        let directory = tempfile::tempdir().unwrap();
        for path in [directory.path().to_owned(), directory.path().join("no/such")] {
            let error = Output::new(path.clone(), true).unwrap_err();
            assert_eq!((error.exit, error.kind.as_ref()), (Exit::Usage, "output_unwritable"));
            assert!(error.message.contains(&*path.to_string_lossy()), "{error}");
        }
        assert!(Output::new("figures".into(), true).is_ok());
    }
}
