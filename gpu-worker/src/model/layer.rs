//! One transformer layer: what surrounds the attention.

use std::error::Error;

use candle_core::{Device, Tensor};

use super::linear::Linear;
use super::rope::RopeTable;
use super::tensors::TensorReader;
use super::{Architecture, ModelConfig, ModelError, ops};
use crate::attention::Attention;

/// A chunk of tokens on its way through the layers.
pub(super) struct Pass<'a> {
    pub(super) config: &'a ModelConfig,
    /// Position of the chunk's first token.
    pub(super) start: usize,
    pub(super) rope: &'a RopeTable,
    pub(super) attention: &'a mut dyn Attention,
}

/// The weights of one layer.
#[derive(Debug)]
pub(super) struct Layer {
    index: usize,
    attention_norm: Tensor,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    feed_forward_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Layer {
    pub(super) fn load(
        tensors: &TensorReader<'_>,
        config: &ModelConfig,
        index: usize,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let linear = |part: &str, outputs, inputs| {
            Linear::load(tensors, &name(part), outputs, inputs, device)
        };
        let norm =
            |part: &str| tensors.vector(&name(&format!("{part}.weight")), config.embedding, device);
        let projection = |part: &str, outputs| -> Result<Linear, ModelError> {
            let bias = name(&format!("{part}.bias"));
            let expected = config.architecture == Architecture::Qwen2 || tensors.has(&bias);
            let bias = expected.then(|| tensors.vector(&bias, outputs, device)).transpose()?;
            Ok(linear(part, outputs, config.embedding)?.with_bias(bias))
        };
        Ok(Self {
            index,
            attention_norm: norm("attn_norm")?,
            query: projection("attn_q", config.query_width())?,
            key: projection("attn_k", config.kv_width())?,
            value: projection("attn_v", config.kv_width())?,
            output: linear("attn_output", config.embedding, config.query_width())?,
            feed_forward_norm: norm("ffn_norm")?,
            gate: linear("ffn_gate", config.feed_forward, config.embedding)?,
            up: linear("ffn_up", config.feed_forward, config.embedding)?,
            down: linear("ffn_down", config.embedding, config.feed_forward)?,
        })
    }

    /// Queries, keys and values of the residual `stream`, given to the attention: `[tokens, heads * head_dim]`. Of a single token
    /// the queries that `next`, if it is given, is expected to have are told as soon as its own have been.
    pub(super) fn attend(
        &self,
        pass: &mut Pass<'_>,
        stream: &Tensor,
        next: Option<&Self>,
    ) -> Result<Tensor, ModelError> {
        let &mut Pass { config, start, rope, .. } = pass;
        let tokens = stream.dim(0)?;
        let x = ops::rms_norm(stream, &self.attention_norm, config.rms_epsilon)?;
        let (q, [k, v]) = if tokens == 1 {
            // Whoever selects keys need not wait for the token's own.
            let q = rotated(&self.query.forward(&x)?, config.heads, config, rope)?;
            pass.attention.announce(self.index, start, &q).map_err(|error| self.failed(error))?;
            if let Some(next) = next {
                next.rehearse(pass, stream)?;
            }
            (q, Linear::forward_each([&self.key, &self.value], &x)?)
        } else {
            let [q, k, v] = Linear::forward_each([&self.query, &self.key, &self.value], &x)?;
            (rotated(&q, config.heads, config, rope)?, [k, v])
        };
        let k = rotated(&k, config.kv_heads, config, rope)?;
        let v = v.reshape((tokens, config.kv_heads, config.head_dim))?;

        let attended = pass.attention.forward(self.index, start, &q, &k, &v);
        let attended = attended.map_err(|error| self.failed(error))?;
        let expected = [tokens, config.query_width()];
        if attended.dims() != expected {
            let found = attended.dims().to_vec();
            return Err(ModelError::AttentionShape {
                layer: self.index,
                expected: expected.into(),
                found,
            });
        }
        Ok(attended)
    }

    /// Tells the attention which queries this layer would have for the residual stream `x` of one token.
    pub(super) fn rehearse(&self, pass: &mut Pass<'_>, x: &Tensor) -> Result<(), ModelError> {
        let &mut Pass { config, start, rope, .. } = pass;
        let x = ops::rms_norm(x, &self.attention_norm, config.rms_epsilon)?;
        let q = rotated(&self.query.forward(&x)?, config.heads, config, rope)?;
        pass.attention.rehearse(self.index, start, &q).map_err(|error| self.failed(error))
    }

    fn failed(&self, source: Box<dyn Error + Send + Sync>) -> ModelError {
        ModelError::Attention { layer: self.index, source }
    }

    /// The residual stream `x` with what was `attended`.
    pub(super) fn join(&self, x: &Tensor, attended: &Tensor) -> Result<Tensor, ModelError> {
        Ok(ops::add(&self.output.forward(attended)?, x)?)
    }

    /// The residual stream `x` with what the feed-forward layer makes of it.
    pub(super) fn feed_forward(
        &self,
        config: &ModelConfig,
        x: &Tensor,
    ) -> Result<Tensor, ModelError> {
        let h = ops::rms_norm(x, &self.feed_forward_norm, config.rms_epsilon)?;
        let [gate, up] = Linear::forward_each([&self.gate, &self.up], &h)?;
        let h = ops::silu_mul(&gate, &up)?;
        Ok(ops::add(&self.down.forward(&h)?, x)?)
    }
}

/// What a projection made, `[tokens, heads * head_dim]`, as heads that are rotated to their positions.
fn rotated(
    projected: &Tensor,
    heads: usize,
    config: &ModelConfig,
    rope: &RopeTable,
) -> Result<Tensor, ModelError> {
    let shaped = projected.reshape((projected.dim(0)?, heads, config.head_dim))?;
    Ok(ops::rotate(&shaped, rope, config.rope.style)?)
}
