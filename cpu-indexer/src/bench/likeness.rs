//! Heads of one shape made from recorded heads of another.

use crate::replay::Trace;

/// How one head's keys and queries are put together from recorded ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Likeness {
    /// Recorded (layer, KV head) pairs whose elements lie side by side.
    pub(super) parts: Vec<(usize, usize)>,
    /// Elements taken of each part.
    pub(super) elements: Vec<usize>,
}

impl Likeness {
    /// A head of `head_dim` elements; the `index`-th of those that `trace` can give, in turn. None if the recorded size is
    /// neither a multiple nor a part of it.
    ///
    /// Of larger heads those rotary pairs are kept that contribute most to scores. Smaller heads are put side by side: a
    /// score is then the sum of theirs.
    pub(super) fn new(trace: &Trace, head_dim: usize, index: usize) -> Option<Self> {
        let geometry = trace.cache().geometry();
        let recorded = geometry.head_dim as usize;
        let (layers, kv_heads) = (geometry.layers as usize, geometry.kv_heads as usize);
        let sources = layers * kv_heads;
        let source = |number: usize| {
            let number = number % sources;
            (number / kv_heads, number % kv_heads)
        };
        if recorded >= head_dim && recorded.is_multiple_of(head_dim) {
            let (layer, head) = source(index);
            let elements = if recorded == head_dim {
                (0..recorded).collect()
            } else {
                strongest_pairs(trace, layer, head, head_dim / 2)
            };
            Some(Self { parts: vec![(layer, head)], elements })
        } else if head_dim.is_multiple_of(recorded) {
            let count = head_dim / recorded;
            let parts = (0..count).map(|part| source(index * count + part)).collect();
            Some(Self { parts, elements: (0..recorded).collect() })
        } else {
            None
        }
    }

    /// Number of different heads of `head_dim` elements that `trace` can give.
    pub(super) fn variety(trace: &Trace, head_dim: usize) -> usize {
        let geometry = trace.cache().geometry();
        let sources = geometry.layers as usize * geometry.kv_heads as usize;
        (sources / (head_dim / geometry.head_dim as usize).max(1)).max(1)
    }

    /// What scores are multiplied with: sums of several heads' scores are scaled back to vary as one head's do.
    #[expect(clippy::cast_precision_loss)]
    pub(super) fn softmax_scale(&self, trace: &Trace) -> f32 {
        trace.softmax_scale() / (self.parts.len() as f32).sqrt()
    }
}

/// The `count` rotary pairs `(i, i + head_dim / 2)` whose products of queries and keys vary most, as elements: the first of each
/// pair, then the second of each.
fn strongest_pairs(trace: &Trace, layer: usize, kv_head: usize, count: usize) -> Vec<usize> {
    let view = trace.cache().head(layer, kv_head, trace.cache().tokens());
    let dim = view.head_dim();
    let (mut sum, mut square) = (vec![0.0_f64; dim], vec![0.0_f64; dim]);
    let sampled = (0..view.tokens()).step_by(16);
    let tokens = sampled.len() as f64;
    for token in sampled {
        for (at, &bits) in view.key(token).iter().enumerate() {
            let element = f64::from(crate::kernels::scalar::widen(view.dtype(), bits));
            sum[at] += element;
            square[at] += element * element;
        }
    }
    let mut weight = vec![0.0_f64; dim];
    for step in 0..trace.steps() {
        for query in trace.queries(step, layer, kv_head).chunks_exact(dim) {
            for (at, &element) in query.iter().enumerate() {
                let variance = square[at] / tokens - (sum[at] / tokens).powi(2);
                weight[at] += f64::from(element).powi(2) * variance;
            }
        }
    }
    let half = dim / 2;
    let of_pair = |pair: usize| weight[pair] + weight[pair + half];
    let mut pairs: Vec<usize> = (0..half).collect();
    pairs.sort_by(|&a, &b| of_pair(b).total_cmp(&of_pair(a)).then(a.cmp(&b)));
    pairs.truncate(count);
    pairs.iter().copied().chain(pairs.iter().map(|pair| pair + half)).collect()
}
