//! A weight matrix: products with it, and rows out of it.

use candle_core::quantized::QMatMul;
use candle_core::{Device, Module, Result, Tensor};

use super::ModelError;
use super::gguf::GgufFile;

/// A matrix `[outputs, inputs]` kept in the file's own blocks, with an optional bias.
///
/// F32, F16 and BF16 matrices are kept as f32.
#[derive(Debug)]
pub(super) struct Linear {
    weight: QMatMul,
    bias: Option<Tensor>,
}

impl Linear {
    /// Loads the matrix `{name}.weight`.
    pub(super) fn load(
        file: &GgufFile,
        name: &str,
        outputs: usize,
        inputs: usize,
        device: &Device,
    ) -> std::result::Result<Self, ModelError> {
        let raw = file.raw(&format!("{name}.weight"), &[outputs, inputs])?;
        Ok(Self { weight: QMatMul::from_qtensor(raw.into_qtensor(device)?)?, bias: None })
    }

    /// The same with a bias, `[outputs]`.
    pub(super) fn with_bias(self, bias: Option<Tensor>) -> Self {
        Self { bias, ..self }
    }

    /// `x`, `[tokens, inputs]`, contiguous, to `[tokens, outputs]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.weight.forward(x)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    /// The rows that `ids` name, dequantized: `[ids, inputs]`.
    pub(super) fn rows(&self, ids: &[u32], device: &Device) -> Result<Tensor> {
        self.weight.embedding(&Tensor::new(ids, device)?)
    }
}
