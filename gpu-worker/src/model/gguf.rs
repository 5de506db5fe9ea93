//! A GGUF file as the loader sees it: a parsed header, and tensors read one at a time.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Content, TensorInfo};
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};

use super::{ModelConfig, ModelError};

/// An open GGUF file whose header has been read.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    file: File,
    length: u64,
    content: Content,
}

/// One tensor's bytes as they lie in the file: blocks of `dtype`, row after row.
#[derive(Debug)]
pub(super) struct RawTensor {
    pub(super) name: String,
    pub(super) dtype: GgmlDType,
    /// Rows first.
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Vec<u8>,
}

impl GgufFile {
    /// Opens a file and reads its header: metadata and the list of tensors, no weights.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is not GGUF, or its header is truncated or absurd.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let unreadable = |source| ModelError::Read { path: path.to_owned(), source };
        let damaged = |reason: String| ModelError::Header { path: path.to_owned(), reason };

        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(damaged("it is not a regular file".into()));
        }
        // candle's parser divides by `general.alignment` without a look at it.
        let content = catch_unwind(AssertUnwindSafe(|| Content::read(&mut BufReader::new(&file))))
            .map_err(|_| damaged("its metadata cannot be parsed".into()))?
            .map_err(|error| damaged(error.to_string()))?;
        Ok(Self { path: path.to_owned(), length: metadata.len(), file, content })
    }

    /// The file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Metadata and the list of tensors.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The model's shape.
    ///
    /// # Errors
    ///
    /// As [`ModelConfig::from_gguf`].
    pub fn config(&self) -> Result<ModelConfig, ModelError> {
        ModelConfig::from_gguf(&self.content)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    /// Reads a tensor that must have the given shape, rows first.
    pub(super) fn raw(&self, name: &str, shape: &[usize]) -> Result<RawTensor, ModelError> {
        let info = self.content.tensor_infos.get(name);
        let info = info.ok_or_else(|| ModelError::MissingTensor { name: name.into() })?;
        if info.shape.dims() != shape {
            return Err(ModelError::TensorShape {
                name: name.into(),
                expected: shape.to_vec(),
                found: info.shape.dims().to_vec(),
            });
        }
        let (start, size) = self.extent(name, info)?;
        let mut bytes = vec![0; size];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(start))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|source| ModelError::Read { path: self.path.clone(), source })?;
        Ok(RawTensor { name: name.into(), dtype: info.ggml_dtype, shape: shape.to_vec(), bytes })
    }

    /// Reads a vector as f32.
    pub(super) fn vector(
        &self,
        name: &str,
        length: usize,
        device: &Device,
    ) -> Result<Tensor, ModelError> {
        Ok(self.raw(name, &[length])?.into_qtensor(device)?.dequantize(device)?)
    }

    /// Where a tensor's bytes start in the file, and how many they are; all of them are in the file.
    fn extent(&self, name: &str, info: &TensorInfo) -> Result<(u64, usize), ModelError> {
        let unusable = |reason: String| ModelError::TensorType { name: name.into(), reason };
        let block = info.ggml_dtype.block_size();
        let columns = info.shape.dims().last().copied().unwrap_or(1);
        if !columns.is_multiple_of(block) {
            return Err(unusable(format!(
                "its rows of {columns} are no whole blocks of {block} ({:?})",
                info.ggml_dtype
            )));
        }
        let elements =
            info.shape.dims().iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        let size = elements
            .and_then(|elements| (elements / block).checked_mul(info.ggml_dtype.type_size()));
        let size = size.ok_or_else(|| unusable("its size overflows".into()))?;

        let start = self.content.tensor_data_offset.saturating_add(info.offset);
        let end = start.saturating_add(size as u64);
        if end > self.length {
            return Err(ModelError::Truncated {
                name: name.into(),
                start,
                end,
                length: self.length,
            });
        }
        Ok((start, size))
    }
}

impl RawTensor {
    /// The same blocks as a candle tensor.
    pub(super) fn into_qtensor(self, device: &Device) -> Result<QTensor, ModelError> {
        if self.dtype == GgmlDType::Q8K || self.dtype == GgmlDType::Q8_1 {
            let reason = format!("{:?} is a type of activations, not of weights", self.dtype);
            return Err(ModelError::TensorType { name: self.name, reason });
        }
        let storage = QStorage::from_data(self.bytes.into(), device, self.dtype)?;
        Ok(QTensor::new(storage, self.shape)?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use candle_core::quantized::gguf_file::{self, Value};

    use super::*;

    /// A file with one Q8_0 tensor of 4 rows of 64.
    fn file(metadata: &[(&str, &Value)]) -> tempfile::NamedTempFile {
        let values = Tensor::arange(0f32, 256.0, &Device::Cpu).unwrap().reshape((4, 64)).unwrap();
        let tensor = QTensor::quantize(&values, GgmlDType::Q8_0).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        gguf_file::write(file.as_file_mut(), metadata, &[("w", &tensor)]).unwrap();
        file
    }

    fn open_error(path: &Path) -> (&'static str, String) {
        let error = GgufFile::open(path).expect_err("the file is bad");
        (error.kind(), error.to_string())
    }

    #[test]
    fn reads_a_tensor_back() {
        let file = file(&[("general.name", &Value::String("x".into()))]);
        let gguf = GgufFile::open(file.path()).unwrap();
        let raw = gguf.raw("w", &[4, 64]).unwrap();
        assert_eq!((raw.dtype, raw.bytes.len()), (GgmlDType::Q8_0, 8 * 34));
        let row = raw
            .into_qtensor(&Device::Cpu)
            .unwrap()
            .dequantize(&Device::Cpu)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        assert!((row[3][63] - 255.0).abs() < 1.0);
    }

    #[test]
    fn names_a_missing_file_a_directory_and_other_formats() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(open_error(&directory.path().join("none.gguf")).0, "model_unreadable");
        assert_eq!(open_error(directory.path()).0, "model_not_gguf");
        let mut text = tempfile::NamedTempFile::new().unwrap();
        text.write_all(b"not a model, but long enough to be one").unwrap();
        let (kind, message) = open_error(text.path());
        assert_eq!(kind, "model_not_gguf");
        assert!(message.contains(text.path().to_str().unwrap()), "{message}");
    }

    #[test]
    fn an_alignment_of_zero_is_an_error() {
        let file = file(&[("general.alignment", &Value::U32(0))]);
        assert_eq!(open_error(file.path()).0, "model_not_gguf");
    }

    #[test]
    fn a_truncated_file_is_an_error_that_names_the_tensor() {
        let file = file(&[]);
        let length = file.as_file().metadata().unwrap().len();
        for shorter in [length - 64, length - 272, 40, 20, 3, 0] {
            file.as_file().set_len(shorter).unwrap();
            match GgufFile::open(file.path()) {
                Err(error) => assert_eq!(error.kind(), "model_not_gguf"),
                Ok(gguf) => {
                    let error = gguf.raw("w", &[4, 64]).expect_err("its data is gone");
                    assert_eq!(error.kind(), "model_truncated");
                    assert!(error.to_string().contains("tensor w"), "{error}");
                }
            }
        }
    }

    #[test]
    fn a_tensor_of_another_shape_or_name_is_an_error() {
        let gguf = GgufFile::open(file(&[]).path()).unwrap();
        assert_eq!(gguf.raw("w", &[64, 4]).unwrap_err().kind(), "model_tensor_shape");
        assert_eq!(gguf.raw("v", &[4, 64]).unwrap_err().kind(), "model_tensor_missing");
    }

    #[test]
    fn sizes_that_overflow_or_break_blocks_are_errors() {
        let mut gguf = GgufFile::open(file(&[]).path()).unwrap();
        for shape in [vec![usize::MAX, 64], vec![4, 63]] {
            let info =
                TensorInfo { ggml_dtype: GgmlDType::Q8_0, shape: shape.clone().into(), offset: 0 };
            gguf.content.tensor_infos.insert("bad".into(), info);
            assert_eq!(gguf.raw("bad", &shape).unwrap_err().kind(), "model_tensor_type");
        }
        let info =
            TensorInfo { ggml_dtype: GgmlDType::F32, shape: vec![4].into(), offset: u64::MAX };
        gguf.content.tensor_infos.insert("far".into(), info);
        assert_eq!(gguf.raw("far", &[4]).unwrap_err().kind(), "model_truncated");
    }
}
