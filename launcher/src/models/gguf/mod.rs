//! Opening a GGUF file: metadata and the list of tensors, checked against the file before they are believed.

mod error;
mod scan;

use std::fs::{self, File};
use std::io::{BufReader, Cursor, Read, Seek};
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Content, Value};

pub use error::GgufError;

/// A GGUF file whose header is sound and whose tensors all lie within the file.
#[derive(Debug)]
pub struct GgufFile {
    /// Where it is.
    pub path: PathBuf,
    /// Metadata and tensor list.
    pub content: Content,
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
        let header_bytes = scan::scan(BufReader::new(&file), path, metadata.len())?;
        file.rewind().map_err(io_error)?;
        let mut header = Vec::new();
        file.take(header_bytes).read_to_end(&mut header).map_err(io_error)?;
        let content = Content::read(&mut Cursor::new(header))
            .map_err(|e| GgufError::Malformed { path: path.to_owned(), reason: e.to_string() })?;
        Ok(Self { path: path.to_owned(), content })
    }

    /// `general.architecture`, such as `llama` or `qwen2`.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`] or [`GgufError::WrongType`].
    pub fn architecture(&self) -> Result<&str, GgufError> {
        self.required("general.architecture", Self::string)
    }

    /// `general.name`, if the file states one.
    pub fn name(&self) -> Option<&str> {
        self.string("general.name").ok().flatten()
    }

    /// The string under `key`, if there.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if it is no string.
    pub fn string(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a string", as_str)
    }

    /// The unsigned number under `key`, if there.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if it is no number between 0 and 2³² - 1.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.typed(key, "an unsigned 32-bit number", as_u32)
    }

    /// The array of unsigned numbers under `key`, if there.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if it is none, or one of them is no number between 0 and 2³² - 1.
    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>, GgufError> {
        self.typed(key, "an array of unsigned 32-bit numbers", |value| match value {
            Value::Array(values) => values.iter().map(as_u32).collect(),
            _ => None,
        })
    }

    /// The truth value under `key`, if there.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if it is none.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a truth value", |value| match *value {
            Value::Bool(truth) => Some(truth),
            _ => None,
        })
    }

    /// The array under `key`, if there.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if it is none.
    pub fn array(&self, key: &str) -> Result<Option<&[Value]>, GgufError> {
        self.typed(key, "an array", |value| match value {
            Value::Array(values) => Some(values.as_slice()),
            _ => None,
        })
    }

    /// The array of strings under `key`, if there.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if it is none.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&str>>, GgufError> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(values) => values.iter().map(as_str).collect(),
            _ => None,
        })
    }

    /// What `get` finds under `key`, which must be there.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`], and the errors of `get`.
    pub fn required<'a, T>(
        &'a self,
        key: &str,
        get: impl FnOnce(&'a Self, &str) -> Result<Option<T>, GgufError>,
    ) -> Result<T, GgufError> {
        get(self, key)?
            .ok_or_else(|| GgufError::MissingKey { path: self.path.clone(), key: key.to_owned() })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        get: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.content.metadata.get(key) else {
            return Ok(None);
        };
        get(value).map(Some).ok_or_else(|| GgufError::WrongType {
            path: self.path.clone(),
            key: key.to_owned(),
            expected,
        })
    }
}

fn as_u32(value: &Value) -> Option<u32> {
    match *value {
        Value::U8(number) => Some(number.into()),
        Value::U16(number) => Some(number.into()),
        Value::U32(number) => Some(number),
        Value::U64(number) => number.try_into().ok(),
        Value::I8(number) => number.try_into().ok(),
        Value::I16(number) => number.try_into().ok(),
        Value::I32(number) => number.try_into().ok(),
        Value::I64(number) => number.try_into().ok(),
        _ => None,
    }
}

fn as_str(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
