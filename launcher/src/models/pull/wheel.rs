//! Taking the model file out of a wheel.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::Path;

use zip::ZipArchive;
use zip::result::ZipError;

use super::super::registry::Entry;
use super::copy::{CopyError, copy_hashed};
use super::{Cancel, Progress, PullError, Stage};

/// Streams the member of `entry` from `wheel` into `out` and checks size and hash.
pub(super) fn unpack(
    wheel: &Path,
    entry: &Entry,
    out: &mut dyn Write,
    cancel: &Cancel,
    progress: &mut dyn Progress,
) -> Result<(), PullError> {
    let wheel_name = wheel.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let broken = |reason: String| PullError::BrokenDownload {
        model: entry.name.clone(),
        wheel: wheel_name.clone(),
        reason,
    };
    let wrong_size =
        |found| PullError::WrongSize { model: entry.name.clone(), expected: entry.bytes, found };

    let file = File::open(wheel).map_err(|e| PullError::io("open", wheel, e))?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|e| broken(e.to_string()))?;
    let mut member = archive.by_name(&entry.member).map_err(|error| match error {
        ZipError::FileNotFound => {
            PullError::MemberMissing { wheel: wheel_name.clone(), member: entry.member.clone() }
        }
        other => broken(other.to_string()),
    })?;
    if member.size() != entry.bytes {
        return Err(wrong_size(member.size()));
    }

    progress.begin(Stage::Unpack, &entry.name, Some(entry.bytes));
    let copied = copy_hashed(&mut member, out, cancel, |bytes| progress.at(bytes));
    progress.end();
    let copied = copied.map_err(|error| match error {
        CopyError::Read(e) => broken(e.to_string()),
        CopyError::Write(e) => PullError::io("write", Path::new(&entry.file), e),
        CopyError::Cancelled => PullError::Cancelled,
    })?;
    if copied.bytes != entry.bytes {
        return Err(wrong_size(copied.bytes));
    }
    if copied.sha256 != entry.sha256 {
        return Err(PullError::WrongHash {
            model: entry.name.clone(),
            expected: entry.sha256.clone(),
            found: copied.sha256,
        });
    }
    Ok(())
}
