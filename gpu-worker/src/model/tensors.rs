//! The tensors of a GGUF file, read one at a time.

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};

use super::ModelError;
use crate::gguf::GgufFile;

/// Reads the tensors that the model asks for by name and shape.
#[derive(Debug)]
pub(super) struct TensorReader<'f> {
    file: &'f GgufFile,
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

impl<'f> TensorReader<'f> {
    pub(super) fn new(file: &'f GgufFile) -> Self {
        Self { file }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.file.content().tensor_infos.contains_key(name)
    }

    /// Reads a tensor that must have the given shape, rows first.
    pub(super) fn raw(&self, name: &str, shape: &[usize]) -> Result<RawTensor, ModelError> {
        let content = self.file.content();
        let info = content.tensor_infos.get(name);
        let info = info.ok_or_else(|| ModelError::MissingTensor { name: name.into() })?;
        if info.shape.dims() != shape {
            return Err(ModelError::TensorShape {
                name: name.into(),
                expected: shape.to_vec(),
                found: info.shape.dims().to_vec(),
            });
        }
        let dtype = info.ggml_dtype;
        // An open file's tensors are whole blocks inside the file: neither size nor offset overflows.
        let size = info.shape.elem_count() / dtype.block_size() * dtype.type_size();
        let mut bytes = vec![0; size];
        self.file.read_at(content.tensor_data_offset + info.offset, &mut bytes)?;
        Ok(RawTensor { name: name.into(), dtype, shape: shape.to_vec(), bytes })
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
    use candle_core::quantized::gguf_file;
    use tempfile::NamedTempFile;

    use super::*;

    /// A file with one Q8_0 tensor of 4 rows of 64.
    fn file() -> NamedTempFile {
        let values = Tensor::arange(0f32, 256.0, &Device::Cpu).unwrap().reshape((4, 64)).unwrap();
        let tensor = QTensor::quantize(&values, GgmlDType::Q8_0).unwrap();
        let mut file = NamedTempFile::new().unwrap();
        gguf_file::write(file.as_file_mut(), &[], &[("w", &tensor)]).unwrap();
        file
    }

    #[test]
    fn reads_a_tensor_back() {
        let gguf = GgufFile::open(file().path()).unwrap();
        let raw = TensorReader::new(&gguf).raw("w", &[4, 64]).unwrap();
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
    fn a_tensor_of_another_shape_or_name_is_an_error() {
        let gguf = GgufFile::open(file().path()).unwrap();
        let tensors = TensorReader::new(&gguf);
        assert_eq!(tensors.raw("w", &[64, 4]).unwrap_err().kind(), "model_tensor_shape");
        assert_eq!(tensors.raw("v", &[4, 64]).unwrap_err().kind(), "model_tensor_missing");
    }

    #[test]
    fn a_file_cut_after_it_was_opened_is_an_error_that_names_it() {
        let file = file();
        let gguf = GgufFile::open(file.path()).unwrap();
        file.as_file().set_len(file.as_file().metadata().unwrap().len() - 64).unwrap();
        let error = TensorReader::new(&gguf).raw("w", &[4, 64]).unwrap_err();
        assert_eq!(error.kind(), "io");
        assert!(error.to_string().contains(file.path().to_str().unwrap()), "{error}");
    }
}
