//! The seam between the model and whatever holds its KV cache.

pub mod arena;
mod rehearsals;

use std::error::Error;

use candle_core::Tensor;

/// What an attention implementation answers, most often the attended values, or its own error.
///
/// The error is boxed so that an implementation keeps its own type; [`crate::model::ModelError::Attention`] carries it
/// as its source, where a caller can downcast it.
pub type AttentionResult<T = Tensor> = Result<T, Box<dyn Error + Send + Sync>>;

/// The residual stream from which a layer's queries are told ahead of time: a stream changes little from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rehearsal {
    /// The stream that enters the layer before, as soon as that layer's own queries are there.
    Early,
    /// The stream that enters the feed-forward part of the layer before: later, and closer to the one to come.
    Late,
}

/// Causal attention of one layer, together with the KV cache it reads.
///
/// The model computes queries, keys and values; it keeps none of them. The implementation stores the keys and values of
/// every chunk it is given and attends over what it has stored.
pub trait Attention {
    /// Stores the keys and values of a chunk and attends from its queries.
    ///
    /// `layer` counts from 0. The chunk's tokens are at the positions `start..start + tokens`; chunks of one layer come
    /// in order and without gaps, and the layers of one chunk come in order too.
    ///
    /// * `q`: `[tokens, heads, head_dim]`, rotated to its positions, not scaled: scores are `q·k / sqrt(head_dim)`.
    /// * `k`: `[tokens, kv_heads, head_dim]`, rotated to its positions.
    /// * `v`: `[tokens, kv_heads, head_dim]`.
    ///
    /// All three are contiguous f32 on the model's device. Query `i` sees the positions `0..=start + i`, among them the
    /// chunk's own; query head `h` reads KV head `h / (heads / kv_heads)`.
    ///
    /// Returns `[tokens, heads * head_dim]`, f32, contiguous, on the same device.
    ///
    /// # Errors
    ///
    /// Whatever stops the implementation: the model passes it on and computes no further.
    fn forward(
        &mut self,
        layer: usize,
        start: usize,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> AttentionResult;

    /// Whether the attention wants to be told, ahead of `layer`, which queries the token at the position `start` is likely to
    /// have there, and from which stream they are to be made.
    fn rehearses(&self, layer: usize, start: usize) -> Option<Rehearsal> {
        let _ = (layer, start);
        None
    }

    /// Tells which queries, `[1, heads, head_dim]`, the token at the position `start` is likely to have in `layer`, to which
    /// the model comes later. Only called where [`Attention::rehearses`] says so.
    ///
    /// # Errors
    ///
    /// As [`Attention::forward`].
    fn rehearse(&mut self, layer: usize, start: usize, q: &Tensor) -> AttentionResult<()> {
        let _ = (layer, start, q);
        Ok(())
    }

    /// Tells the queries, `[1, heads, head_dim]`, that the token at the position `start` has in `layer`, as soon as they are there:
    /// [`Attention::forward`] follows, with its key and value.
    ///
    /// # Errors
    ///
    /// As [`Attention::forward`].
    fn announce(&mut self, layer: usize, start: usize, q: &Tensor) -> AttentionResult<()> {
        let _ = (layer, start, q);
        Ok(())
    }
}
