//! GGUF files in memory for tests.

use candle_core::quantized::gguf_file::{Content, Value, VersionedMagic};

use super::gguf::GgufFile;

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

/// A file with this metadata and no tensors.
pub(super) fn gguf<'a>(metadata: impl IntoIterator<Item = (&'a str, Meta)>) -> GgufFile {
    let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value.0)).collect();
    let content = Content {
        magic: VersionedMagic::GgufV3,
        metadata,
        tensor_infos: [].into(),
        tensor_data_offset: 0,
    };
    GgufFile { path: "test.gguf".into(), content }
}
