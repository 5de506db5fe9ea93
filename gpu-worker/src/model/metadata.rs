//! Metadata values of a GGUF file, with errors that name their keys.

use candle_core::quantized::gguf_file::{Content, Value};

use super::ModelError;
use crate::gguf::unsigned;

/// The metadata under one architecture's prefix.
pub(super) struct Keys<'a> {
    pub(super) content: &'a Content,
    pub(super) prefix: &'static str,
}

impl Keys<'_> {
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.content.metadata.get(&self.key(name))
    }

    pub(super) fn invalid(&self, name: &str, reason: String) -> ModelError {
        let value = self.get(name).map_or_else(|| "(absent)".into(), abridged);
        ModelError::InvalidValue { key: self.key(name), value, reason }
    }

    pub(super) fn unsupported(&self, name: &str, what: String) -> ModelError {
        ModelError::Unsupported { key: self.key(name), what }
    }

    pub(super) fn optional_integer(&self, name: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        if matches!(value, Value::Array(_)) {
            return Err(self.unsupported(name, "a value for each layer".into()));
        }
        let integer = unsigned(value).and_then(|integer| usize::try_from(integer).ok());
        integer.map(Some).ok_or_else(|| self.invalid(name, "is not a whole number".into()))
    }

    pub(super) fn optional_size(
        &self,
        name: &str,
        max: usize,
    ) -> Result<Option<usize>, ModelError> {
        match self.optional_integer(name)? {
            Some(size) if !(1..=max).contains(&size) => {
                Err(self.invalid(name, format!("is not in 1..={max}")))
            }
            size => Ok(size),
        }
    }

    pub(super) fn size(&self, name: &str, max: usize) -> Result<usize, ModelError> {
        self.optional_size(name, max)?.ok_or_else(|| ModelError::MissingKey { key: self.key(name) })
    }

    fn optional_float(&self, name: &str) -> Result<Option<f32>, ModelError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::F32(v)) if v.is_finite() => Ok(Some(*v)),
            Some(_) => Err(self.invalid(name, "is not a finite f32".into())),
        }
    }

    pub(super) fn float(&self, name: &str) -> Result<f32, ModelError> {
        self.optional_float(name)?.ok_or_else(|| ModelError::MissingKey { key: self.key(name) })
    }

    pub(super) fn positive_float(&self, name: &str, default: f32) -> Result<f64, ModelError> {
        match self.optional_float(name)? {
            Some(value) if value <= 0.0 => Err(self.invalid(name, "is not positive".into())),
            value => Ok(f64::from(value.unwrap_or(default))),
        }
    }
}

/// A metadata value short enough for an error message.
pub(super) fn abridged(value: &Value) -> String {
    match value {
        Value::U8(v) => v.to_string(),
        Value::I8(v) => v.to_string(),
        Value::U16(v) => v.to_string(),
        Value::I16(v) => v.to_string(),
        Value::U32(v) => v.to_string(),
        Value::I32(v) => v.to_string(),
        Value::U64(v) => v.to_string(),
        Value::I64(v) => v.to_string(),
        Value::F32(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        Value::Bool(v) => v.to_string(),
        Value::String(v) => format!("{:?}", v.chars().take(64).collect::<String>()),
        Value::Array(v) => format!("[{} values]", v.len()),
    }
}
