//! Input rows as 8-bit codes.

use super::format::ActivationKind;
use super::kernels::Path;
use super::matrix::QuantMatrix;
use crate::threads::{Parallel, Serial, for_each_chunk};

/// Batches of at least this many values are quantized on all threads.
const PARALLEL_VALUES: usize = 1 << 14;

/// 32 activations for weights in blocks of 32.
///
/// The codes stand in words of 4, in the order of the columns in memory.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Block32 {
    /// Codes of −127 to 127.
    pub(super) words: [i32; 8],
    /// What a code of 1 is worth; a value of f16.
    pub(super) scale: f32,
    /// Minus the sum of the codes.
    pub(super) minus_sum: i32,
    /// What a minimum of 1 adds: the sum of the codes times `scale`, rounded to f16 as candle does.
    pub(super) sum: f32,
}

/// 256 activations for weights in blocks of 256.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Block256 {
    /// Codes of −127 to 127, 32 a row.
    pub(super) words: [[i32; 8]; 8],
    /// What a code of 1 is worth.
    pub(super) scale: f32,
    /// The sums of the codes of 16 columns each, two to a word, the earlier one in the lower half.
    pub(super) sums_of_16: [i32; 8],
    /// The sums of the codes of 32 columns each, likewise.
    pub(super) sums_of_32: [i32; 4],
}

/// A batch of input rows, quantized for the matrices that will read it. Keep one and fill it again: it allocates only
/// when a batch is larger than all before.
#[derive(Debug, Default)]
pub struct Activations {
    rows: usize,
    columns: usize,
    blocks_32: Vec<Block32>,
    blocks_256: Vec<Block256>,
    valid_32: bool,
    valid_256: bool,
}

impl Activations {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rows of the batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values of a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Quantizes `x`, rows of as many values as the matrices have columns, in the forms that `readers` need.
    ///
    /// A value that is not finite makes all products of its row NaN or infinite.
    ///
    /// # Panics
    ///
    /// If `readers` is empty or its matrices differ in their number of columns, or if `x` is not whole rows.
    pub fn quantize(&mut self, x: &[f32], readers: &[&QuantMatrix], threads: &dyn Parallel) {
        self.quantize_on(Path::best(), x, readers, threads);
    }

    pub(super) fn quantize_on(
        &mut self,
        path: Path,
        x: &[f32],
        readers: &[&QuantMatrix],
        threads: &dyn Parallel,
    ) {
        let columns = readers.first().expect("activations have a reader").columns();
        assert!(
            readers.iter().all(|matrix| matrix.columns() == columns),
            "readers differ in columns"
        );
        assert!(x.len().is_multiple_of(columns), "{} values are not rows of {columns}", x.len());
        let threads = if x.len() < PARALLEL_VALUES { &Serial } else { threads };
        let wanted = |kind| readers.iter().any(|matrix| matrix.activation() == kind);
        self.rows = x.len() / columns;
        self.columns = columns;
        self.valid_32 = wanted(ActivationKind::Blocks32);
        self.valid_256 = wanted(ActivationKind::Blocks256);
        if self.valid_32 {
            fill(&mut self.blocks_32, x.as_chunks().0, threads, |x, blocks| {
                path.quantize_32(x, blocks)
            });
        }
        if self.valid_256 {
            fill(&mut self.blocks_256, x.as_chunks().0, threads, |x, blocks| {
                path.quantize_256(x, blocks)
            });
        }
    }

    /// The blocks of 32, row after row.
    pub(super) fn blocks_32(&self) -> &[Block32] {
        assert!(self.valid_32, "the activations were not quantized for this matrix");
        &self.blocks_32[..self.rows * self.columns / 32]
    }

    /// The blocks of 256, row after row.
    pub(super) fn blocks_256(&self) -> &[Block256] {
        assert!(self.valid_256, "the activations were not quantized for this matrix");
        &self.blocks_256[..self.rows * self.columns / 256]
    }
}

/// Sets the first `x.len()` of `blocks`, on all threads.
fn fill<const N: usize, B: Copy + Default + Send>(
    blocks: &mut Vec<B>,
    x: &[[f32; N]],
    threads: &dyn Parallel,
    quantize: impl Fn(&[[f32; N]], &mut [B]) + Sync,
) {
    if blocks.len() < x.len() {
        blocks.resize(x.len(), B::default());
    }
    let chunk = x.len().div_ceil(threads.threads()).max(1);
    for_each_chunk(&mut blocks[..x.len()], chunk, threads, |index, blocks| {
        quantize(&x[index * chunk..][..blocks.len()], blocks);
    });
}
