//! GGUF files for tests.

use std::collections::BTreeMap;
use std::fs::File;

use candle_core::quantized::gguf_file::{self, Value};
use tempfile::TempDir;

use super::GgufFile;

/// A metadata value that tests write as a Rust value.
pub(super) struct Meta(Value);

impl From<&str> for Meta {
    fn from(text: &str) -> Self {
        Self(Value::String(text.into()))
    }
}

impl From<u32> for Meta {
    fn from(number: u32) -> Self {
        Self(Value::U32(number))
    }
}

impl From<bool> for Meta {
    fn from(truth: bool) -> Self {
        Self(Value::Bool(truth))
    }
}

impl From<&[&str]> for Meta {
    fn from(texts: &[&str]) -> Self {
        Self(Value::Array(texts.iter().map(|text| Value::String((*text).into())).collect()))
    }
}

impl From<&[u32]> for Meta {
    fn from(numbers: &[u32]) -> Self {
        let signed = |n: &u32| Value::I32(i32::try_from(*n).unwrap());
        Self(Value::Array(numbers.iter().map(signed).collect()))
    }
}

/// A file with this metadata and no tensors; of equal keys, the last one counts.
pub(super) fn gguf<'a>(metadata: impl IntoIterator<Item = (&'a str, Meta)>) -> GgufFile {
    let metadata: BTreeMap<_, _> = metadata.into_iter().collect();
    let metadata: Vec<_> = metadata.iter().map(|(key, Meta(value))| (*key, value)).collect();
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("test.gguf");
    gguf_file::write(&mut File::create_new(&path).unwrap(), &metadata, &[]).unwrap();
    GgufFile::open(&path).unwrap()
}
