//! Full causal attention over f32 tensors in memory: plain, slow and right.

use candle_core::{D, Device, Tensor};
use hindsight_gpu_worker::attention::{Attention, AttentionResult};

/// Keeps every key and value as it came.
#[derive(Default)]
pub(crate) struct InMemory {
    /// Keys and values of each layer, `[kv_heads, tokens, head_dim]`.
    layers: Vec<Option<(Tensor, Tensor)>>,
}

impl Attention for InMemory {
    fn forward(
        &mut self,
        layer: usize,
        start: usize,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> AttentionResult {
        let (tokens, heads, head_dim) = q.dims3()?;
        let kv_heads = k.dim(1)?;
        let group = heads / kv_heads;
        assert!(q.is_contiguous() && k.is_contiguous() && v.is_contiguous());

        let heads_first = |t: &Tensor| t.transpose(0, 1)?.contiguous();
        let (k, v) = (heads_first(k)?, heads_first(v)?);
        self.layers.resize(self.layers.len().max(layer + 1), None);
        let (k, v) = match &self.layers[layer] {
            Some((keys, values)) => (Tensor::cat(&[keys, &k], 1)?, Tensor::cat(&[values, &v], 1)?),
            None => (k, v),
        };
        let context = k.dim(1)?;
        assert_eq!(context, start + tokens, "chunks follow one another");
        self.layers[layer] = Some((k.clone(), v.clone()));

        // The query heads of a group are so many more rows of the same product.
        let q = heads_first(q)?.reshape((kv_heads, group * tokens, head_dim))?;
        let scores = (q.matmul(&k.t()?)? * (head_dim as f64).powf(-0.5))?;
        let scores = scores
            .reshape((heads, tokens, context))?
            .broadcast_add(&causal_mask(start, tokens)?)?;
        let weights = softmax(&scores)?.reshape((kv_heads, group * tokens, context))?;
        let attended = weights.matmul(&v)?.reshape((heads, tokens, head_dim))?;
        Ok(attended.transpose(0, 1)?.contiguous()?.reshape((tokens, heads * head_dim))?)
    }
}

fn causal_mask(start: usize, tokens: usize) -> candle_core::Result<Tensor> {
    let context = start + tokens;
    let mask = (0..tokens)
        .flat_map(|i| {
            (0..context).map(move |j| if j <= start + i { 0.0 } else { f32::NEG_INFINITY })
        })
        .collect::<Vec<f32>>();
    Tensor::from_vec(mask, (tokens, context), &Device::Cpu)
}

fn softmax(scores: &Tensor) -> candle_core::Result<Tensor> {
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)
}
