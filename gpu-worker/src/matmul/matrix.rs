//! Quantized weight matrices.

use candle_core::quantized::{GgmlDType, QTensor};

use super::activations::Activations;
use super::dequantize::dequantize;
use super::format::{ActivationKind, Format};
use super::kernels::{Path, Product, multiply};
use super::layout::ROWS;
use super::pack::pack_panel;
use super::storage::Storage;
use crate::threads::Parallel;

/// Why weights cannot be a [`QuantMatrix`].
#[derive(Debug, thiserror::Error)]
pub enum MatrixError {
    /// There are no kernels for this format.
    #[error(
        "no matrix kernels for {0:?} weights; use Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or Q6_K"
    )]
    Format(GgmlDType),
    /// The tensor is not a matrix.
    #[error("a weight matrix has 2 dimensions, not {0}")]
    Rank(usize),
    /// A row is not whole blocks.
    #[error("rows of {columns} weights are not whole {dtype:?} blocks of {block}")]
    Columns {
        /// Weights of a row.
        columns: usize,
        /// The format.
        dtype: GgmlDType,
        /// Weights of a block.
        block: usize,
    },
    /// The data is shorter or longer than the shape says.
    #[error(
        "{rows} rows of {columns} {dtype:?} weights are not {found} bytes; is the file complete?"
    )]
    Bytes {
        /// Rows of the matrix.
        rows: usize,
        /// Weights of a row.
        columns: usize,
        /// The format.
        dtype: GgmlDType,
        /// Bytes given.
        found: usize,
    },
    /// The tensor's data is not on the host.
    #[error("cannot read the tensor's blocks: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// Weights `[rows, columns]` in a GGUF block format, repacked for the kernels, in no more than 3 % more bytes.
pub struct QuantMatrix {
    dtype: GgmlDType,
    format: Format,
    rows: usize,
    columns: usize,
    panels: Storage,
}

impl QuantMatrix {
    /// Whether there are kernels for the format.
    pub fn supports(dtype: GgmlDType) -> bool {
        Format::from_dtype(dtype).is_some()
    }

    /// Repacks a tensor of shape `[rows, columns]`.
    ///
    /// # Errors
    ///
    /// If the tensor is no matrix, its format has no kernels, or its rows are not whole blocks.
    pub fn from_qtensor(tensor: &QTensor) -> Result<Self, MatrixError> {
        let &[rows, columns] = tensor.shape().dims() else {
            return Err(MatrixError::Rank(tensor.rank()));
        };
        Self::from_blocks(tensor.dtype(), rows, columns, &tensor.data()?)
    }

    /// Repacks `rows` rows of `columns` weights from the bytes of a GGUF file.
    ///
    /// # Errors
    ///
    /// If the format has no kernels, the rows are not whole blocks, or `blocks` has not the right length.
    pub fn from_blocks(
        dtype: GgmlDType,
        rows: usize,
        columns: usize,
        blocks: &[u8],
    ) -> Result<Self, MatrixError> {
        let format = Format::from_dtype(dtype).ok_or(MatrixError::Format(dtype))?;
        let block = format.block_columns();
        if columns == 0 || !columns.is_multiple_of(block) {
            return Err(MatrixError::Columns { columns, dtype, block });
        }
        let row_bytes = (columns / block).checked_mul(format.source_bytes());
        let row_bytes = row_bytes
            .filter(|bytes| rows.checked_mul(*bytes) == Some(blocks.len()))
            .ok_or(MatrixError::Bytes { rows, columns, dtype, found: blocks.len() })?;
        let panel_bytes = columns / block * format.panel_block_bytes();
        let mut panels = Storage::zeroed(rows.div_ceil(ROWS) * panel_bytes);
        let sources = blocks.chunks(ROWS * row_bytes);
        for (source, panel) in sources.zip(panels.bytes_mut().chunks_exact_mut(panel_bytes)) {
            pack_panel(format, source, row_bytes, panel);
        }
        Ok(Self { dtype, format, rows, columns, panels })
    }

    /// The weights' format.
    pub fn dtype(&self) -> GgmlDType {
        self.dtype
    }

    /// Rows, which are the outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns, which are the inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes of memory that the weights take, all of which a product reads.
    pub fn bytes(&self) -> usize {
        self.panels.bytes().len()
    }

    /// Sets `out`, `[x.rows(), self.rows()]`, to the products of the activations with every row.
    ///
    /// # Panics
    ///
    /// If `x` was not quantized with this matrix among the readers, or `out` has not that length.
    pub fn multiply(&self, x: &Activations, out: &mut [f32], threads: &dyn Parallel) {
        multiply_each([(self, out)], x, threads);
    }

    /// Sets `out`, `[m, self.rows()]`, to the products of `x`, `[m, self.columns()]`, with every row, `m` being
    /// whatever the length of `x` says. `scratch` is filled with the quantized `x`.
    ///
    /// # Panics
    ///
    /// If `x` is not whole rows, or `out` not as many.
    pub fn forward(
        &self,
        x: &[f32],
        out: &mut [f32],
        scratch: &mut Activations,
        threads: &dyn Parallel,
    ) {
        scratch.quantize(x, &[self], threads);
        self.multiply(scratch, out, threads);
    }

    /// Sets `out` to the weights of a row, the values that candle's `dequantize` gives: an embedding look-up.
    ///
    /// # Panics
    ///
    /// If there is no such row, or `out` has not as many values as there are columns.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of a matrix of {}", self.rows);
        assert_eq!(out.len(), self.columns, "a row has {} values", self.columns);
        let panel_bytes = self.blocks() * self.format.panel_block_bytes();
        let panel = &self.panels.bytes()[row / ROWS * panel_bytes..][..panel_bytes];
        dequantize(self.format, panel, row % ROWS, out);
    }

    /// How activations must be quantized for it.
    pub(super) fn activation(&self) -> ActivationKind {
        self.format.activation()
    }

    fn blocks(&self) -> usize {
        self.columns / self.format.block_columns()
    }
}

/// Sets each output to the product of its matrix with the same activations, as [`QuantMatrix::multiply`] does, with
/// the threads called together only once.
///
/// # Panics
///
/// As [`QuantMatrix::multiply`].
pub fn multiply_each<const N: usize>(
    products: [(&QuantMatrix, &mut [f32]); N],
    x: &Activations,
    threads: &dyn Parallel,
) {
    multiply_each_on(Path::best(), products, x, threads);
}

pub(super) fn multiply_each_on<const N: usize>(
    path: Path,
    products: [(&QuantMatrix, &mut [f32]); N],
    x: &Activations,
    threads: &dyn Parallel,
) {
    let products = products.map(|(matrix, out)| {
        assert_eq!(x.columns(), matrix.columns, "activations and weights differ in columns");
        Product {
            format: matrix.format,
            panels: matrix.panels.bytes(),
            blocks: matrix.blocks(),
            columns: matrix.rows,
            out,
        }
    });
    multiply(path, products, x, threads);
}
