//! Opening a GGUF file and reading from it.

use std::fs::{self, File};
use std::io::{BufReader, Cursor, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Content;

use super::GgufError;
use super::scan::scan;

/// An open GGUF file whose header is sound and whose tensors all lie within the file.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    file: File,
    content: Content,
}

impl GgufFile {
    /// Reads the header of the file at `path`; no tensor is read.
    ///
    /// # Errors
    /// [`GgufError`], naming the file. No input makes this panic or allocate more than a few times the header.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let metadata = fs::metadata(path).map_err(|e| GgufError::from_open(path, e))?;
        if !metadata.is_file() {
            return Err(GgufError::NotAFile { path: path.to_owned() });
        }
        let mut file = File::open(path).map_err(|e| GgufError::from_open(path, e))?;
        let io_error = |source| GgufError::Io { path: path.to_owned(), source };
        let header_bytes = scan(BufReader::new(&file), path, metadata.len())?;
        file.rewind().map_err(io_error)?;
        let mut header = Vec::new();
        (&file).take(header_bytes).read_to_end(&mut header).map_err(io_error)?;
        let content = Content::read(&mut Cursor::new(header))
            .map_err(|e| GgufError::Malformed { path: path.to_owned(), reason: e.to_string() })?;
        Ok(Self { path: path.to_owned(), file, content })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Metadata and the list of tensors.
    ///
    /// Every tensor has elements, in rows of whole blocks, and as many bytes in the file as they take: sizes and
    /// offsets computed from the list do not overflow.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// Fills `bytes` from the file, beginning `start` bytes into it.
    pub(crate) fn read_at(&self, start: u64, bytes: &mut [u8]) -> Result<(), GgufError> {
        self.file
            .read_exact_at(bytes, start)
            .map_err(|source| GgufError::Io { path: self.path.clone(), source })
    }
}
