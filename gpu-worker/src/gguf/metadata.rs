//! Metadata values by key, of the type that the format prescribes.

use candle_core::quantized::gguf_file::Value;

use super::{GgufError, GgufFile};

impl GgufFile {
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
        get(self, key)?.ok_or_else(|| GgufError::MissingKey {
            path: self.path().to_owned(),
            key: key.to_owned(),
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        get: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.content().metadata.get(key) else {
            return Ok(None);
        };
        get(value).map(Some).ok_or_else(|| GgufError::WrongType {
            path: self.path().to_owned(),
            key: key.to_owned(),
            expected,
        })
    }
}

fn as_u32(value: &Value) -> Option<u32> {
    unsigned(value)?.try_into().ok()
}

/// A whole number that is not negative, stored in any width.
pub(crate) fn unsigned(value: &Value) -> Option<u64> {
    match *value {
        Value::U8(number) => Some(number.into()),
        Value::U16(number) => Some(number.into()),
        Value::U32(number) => Some(number.into()),
        Value::U64(number) => Some(number),
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
