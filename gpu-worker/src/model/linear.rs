//! A weight matrix: products with it, and rows out of it.

use std::cell::Cell;
use std::fmt;

use candle_core::quantized::QMatMul;
use candle_core::{Device, Module, Result, Storage, Tensor};

use super::tensors::{RawTensor, TensorReader};
use super::{ModelError, ops};
use crate::matmul::{Activations, QuantMatrix, multiply_each};
use crate::threads::Current;

/// A matrix `[outputs, inputs]` kept in the file's own quantization, with an optional bias.
pub(super) struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
}

enum Weight {
    /// On the CPU, where we have kernels for the format.
    Host(QuantMatrix),
    /// Elsewhere, and the other formats; F32, F16 and BF16 are kept as f32.
    Candle(QMatMul),
}

impl fmt::Debug for Linear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.weight {
            Weight::Host(matrix) => {
                write!(f, "Linear({:?} [{}, {}])", matrix.dtype(), matrix.rows(), matrix.columns())
            }
            Weight::Candle(weight) => write!(f, "Linear({weight:?})"),
        }
    }
}

impl Linear {
    /// Loads the matrix `{name}.weight`.
    pub(super) fn load(
        tensors: &TensorReader<'_>,
        name: &str,
        outputs: usize,
        inputs: usize,
        device: &Device,
    ) -> std::result::Result<Self, ModelError> {
        let raw = tensors.raw(&format!("{name}.weight"), &[outputs, inputs])?;
        let weight = if device.is_cpu() && QuantMatrix::supports(raw.dtype) {
            Weight::Host(pack(&raw, outputs, inputs)?)
        } else {
            Weight::Candle(QMatMul::from_qtensor(raw.into_qtensor(device)?)?)
        };
        Ok(Self { weight, bias: None })
    }

    /// The same with a bias, `[outputs]`.
    pub(super) fn with_bias(self, bias: Option<Tensor>) -> Self {
        Self { bias, ..self }
    }

    /// `x`, `[tokens, inputs]`, contiguous, to `[tokens, outputs]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [y] = Self::forward_each([self], x)?;
        Ok(y)
    }

    /// `x` through several matrices: quantized once, and the threads called together once.
    pub(super) fn forward_each<const N: usize>(
        linears: [&Self; N],
        x: &Tensor,
    ) -> Result<[Tensor; N]> {
        let mut products = Vec::with_capacity(N);
        match host_matrices(linears) {
            Some(matrices) => products.extend(multiply(matrices, x)?),
            None => {
                for linear in linears {
                    products.push(linear.weight.forward(x)?);
                }
            }
        }
        for (product, linear) in products.iter_mut().zip(linears) {
            if let Some(bias) = &linear.bias {
                *product = ops::add(product, bias)?;
            }
        }
        Ok(products.try_into().expect("there is one product for each matrix"))
    }

    /// The rows that `ids` name, dequantized: `[ids, inputs]`.
    pub(super) fn rows(&self, ids: &[u32], device: &Device) -> Result<Tensor> {
        match &self.weight {
            Weight::Host(matrix) => {
                let mut rows = vec![0f32; ids.len() * matrix.columns()];
                for (row, &id) in rows.chunks_exact_mut(matrix.columns()).zip(ids) {
                    matrix.dequantize_row(id as usize, row);
                }
                Tensor::from_vec(rows, (ids.len(), matrix.columns()), device)
            }
            Weight::Candle(weight) => weight.embedding(&Tensor::new(ids, device)?),
        }
    }
}

impl Weight {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Host(matrix) => {
                let [y] = multiply([matrix], x)?;
                Ok(y)
            }
            Self::Candle(weight) => weight.forward(x),
        }
    }
}

fn pack(
    raw: &RawTensor,
    outputs: usize,
    inputs: usize,
) -> std::result::Result<QuantMatrix, ModelError> {
    QuantMatrix::from_blocks(raw.dtype, outputs, inputs, &raw.bytes).map_err(|error| {
        ModelError::TensorType { name: raw.name.clone(), reason: error.to_string() }
    })
}

fn host_matrices<const N: usize>(linears: [&Linear; N]) -> Option<[&QuantMatrix; N]> {
    let matrices: Vec<_> = linears
        .into_iter()
        .filter_map(|linear| match &linear.weight {
            Weight::Host(matrix) => Some(matrix),
            Weight::Candle(_) => None,
        })
        .collect();
    matrices.try_into().ok()
}

/// The products of `x`, `[tokens, inputs]`, with each matrix.
fn multiply<const N: usize>(matrices: [&QuantMatrix; N], x: &Tensor) -> Result<[Tensor; N]> {
    thread_local! {
        static QUANTIZED: Cell<Activations> = Cell::default();
    }
    let (tokens, inputs) = x.dims2()?;
    if let Some(matrix) = matrices.iter().find(|matrix| matrix.columns() != inputs) {
        candle_core::bail!("{:?} times a matrix of {} inputs", x.dims(), matrix.columns())
    }
    let mut products = matrices.map(|matrix| vec![0f32; tokens * matrix.rows()]);
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        candle_core::bail!("expected a tensor in host memory")
    };
    let x = ops::contiguous(storage, layout)?;
    // Taken out, not borrowed: while it waits for the others, a pool's thread may begin another product.
    let mut quantized = QUANTIZED.take();
    quantized.quantize(x, &matrices, &Current);
    let mut outs = products.iter_mut().map(Vec::as_mut_slice);
    let pairs = matrices.map(|matrix| (matrix, outs.next().expect("one product for each matrix")));
    multiply_each(pairs, &quantized, &Current);
    QUANTIZED.set(quantized);

    let mut shaped = Vec::with_capacity(N);
    for (product, matrix) in products.into_iter().zip(matrices) {
        shaped.push(Tensor::from_vec(product, (tokens, matrix.rows()), &Device::Cpu)?);
    }
    Ok(shaped.try_into().expect("there is one product for each matrix"))
}
