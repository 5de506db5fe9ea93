//! What the kernels are told about a KV head and its blocks.

use hindsight_protocol::geometry::KvDtype;

/// The most tokens that one block may hold.
pub const MAX_BLOCK_TOKENS: usize = 64;

/// The largest head the kernels take.
const MAX_HEAD_DIM: usize = 512;

/// The most query heads that may share a KV head.
const MAX_GROUP: usize = 64;

/// Why a head's shape cannot be attended.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// The head dimension is zero, too large or not a multiple of 16.
    #[error("head dimension {0} is not a multiple of 16 between 16 and {MAX_HEAD_DIM}")]
    HeadDim(usize),
    /// No query head, or too many, for one KV head.
    #[error("{0} query heads share a KV head; the attention kernels take 1 to {MAX_GROUP}")]
    Group(usize),
    /// The softmax scale is not a positive finite number.
    #[error("softmax scale {0} is not a positive finite number")]
    Scale(f32),
}

/// The shape of attention for one KV head and the query heads that share it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    head_dim: usize,
    group: usize,
    dtype: KvDtype,
    scale: f32,
}

impl AttentionShape {
    /// A shape with the usual softmax scale of `1 / sqrt(head_dim)`.
    ///
    /// `group` is the number of query heads that share the KV head.
    ///
    /// # Errors
    /// If `head_dim` is not a multiple of 16 up to 512, or `group` is not within 1 to 64.
    pub fn new(head_dim: usize, group: usize, dtype: KvDtype) -> Result<Self, ShapeError> {
        if head_dim == 0 || head_dim > MAX_HEAD_DIM || !head_dim.is_multiple_of(16) {
            return Err(ShapeError::HeadDim(head_dim));
        }
        if group == 0 || group > MAX_GROUP {
            return Err(ShapeError::Group(group));
        }
        Ok(Self { head_dim, group, dtype, scale: 1.0 / (head_dim as f32).sqrt() })
    }

    /// The same shape with another softmax scale.
    ///
    /// # Errors
    /// If `scale` is not a positive finite number.
    pub fn with_scale(self, scale: f32) -> Result<Self, ShapeError> {
        if !(scale.is_finite() && scale > 0.0) {
            return Err(ShapeError::Scale(scale));
        }
        Ok(Self { scale, ..self })
    }

    /// Elements of one key, value or query vector.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Query heads that share the KV head.
    #[must_use]
    pub fn group(&self) -> usize {
        self.group
    }

    /// How keys and values are stored.
    #[must_use]
    pub fn dtype(&self) -> KvDtype {
        self.dtype
    }

    /// What `q·k` is multiplied by before the softmax.
    #[must_use]
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The factor of `q·k` for a softmax in base 2: exponentials are then plain powers of two.
    pub(super) fn scale_log2(&self) -> f32 {
        (f64::from(self.scale) * std::f64::consts::LOG2_E) as f32
    }
}

/// The keys and values of up to [`MAX_BLOCK_TOKENS`] consecutive tokens of one KV head, as raw 16-bit floats.
///
/// Only the first tokens of a block may have been written; a block is then given by the written ones alone.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// Keys `[tokens, head_dim]`.
    pub keys: &'a [u16],
    /// Values `[tokens, head_dim]`.
    pub values: &'a [u16],
}

impl Block<'_> {
    /// The number of tokens in the block, for heads of `head_dim`.
    ///
    /// # Panics
    /// If keys and values differ in length, are not whole tokens, or are more than [`MAX_BLOCK_TOKENS`].
    pub(super) fn tokens(&self, head_dim: usize) -> usize {
        let tokens = self.keys.len() / head_dim;
        assert!(
            self.keys.len() == tokens * head_dim
                && self.values.len() == self.keys.len()
                && tokens <= MAX_BLOCK_TOKENS,
            "a block of {} key and {} value elements is not up to {MAX_BLOCK_TOKENS} tokens of {head_dim}",
            self.keys.len(),
            self.values.len(),
        );
        tokens
    }
}
