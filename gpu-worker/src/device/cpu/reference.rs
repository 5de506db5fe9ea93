//! Inputs for tests, and attention in double precision to test against.

use hindsight_protocol::geometry::KvDtype;

use super::shape::{AttentionShape, Block};
use super::{CpuAttention, Isa};
pub(super) use crate::device::conformance::reference::narrow;
use crate::device::conformance::reference::{self, Rows};

/// Numbers that look random and are the same on every run (SplitMix64).
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// About normally distributed, with standard deviation 1.
    pub(super) fn normal(&mut self) -> f32 {
        let sum: f64 = (0..12).map(|_| self.next() as f64 / u64::MAX as f64).sum();
        (sum - 6.0) as f32
    }

    pub(super) fn normals(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| scale * self.normal()).collect()
    }
}

/// The value of a stored element.
pub(super) fn widen(dtype: KvDtype, bits: u16) -> f64 {
    reference::widen(dtype, bits).into()
}

/// Keys and values `[tokens, head_dim]` of one KV head, as stored.
pub(super) struct Cache {
    pub(super) head_dim: usize,
    pub(super) keys: Vec<u16>,
    pub(super) values: Vec<u16>,
}

impl Cache {
    pub(super) fn random(shape: &AttentionShape, tokens: usize, scale: f32, seed: u64) -> Self {
        let mut numbers = Numbers(seed);
        let mut stored = |scale| -> Vec<u16> {
            let floats = numbers.normals(tokens * shape.head_dim(), scale);
            floats.into_iter().map(|x| narrow(shape.dtype(), x)).collect()
        };
        Self { head_dim: shape.head_dim(), keys: stored(scale), values: stored(1.0) }
    }

    /// The first tokens alone.
    pub(super) fn first(&self, tokens: usize) -> Self {
        Self {
            head_dim: self.head_dim,
            keys: self.keys[..tokens * self.head_dim].to_vec(),
            values: self.values[..tokens * self.head_dim].to_vec(),
        }
    }

    /// The largest score that rounding could be relative to: the sum of magnitudes in `q·k`.
    pub(super) fn most_score(&self, shape: &AttentionShape, query: &[f32]) -> f64 {
        let keys = self.keys.chunks(self.head_dim).map(|key| {
            let products =
                key.iter().zip(query).map(|(&k, &q)| widen(shape.dtype(), k) * f64::from(q));
            products.map(f64::abs).sum::<f64>() * f64::from(shape.scale())
        });
        most(keys)
    }

    /// The largest magnitude of a value.
    pub(super) fn most_value(&self, shape: &AttentionShape) -> f64 {
        most(self.values.iter().map(|&bits| widen(shape.dtype(), bits)))
    }

    pub(super) fn blocks(&self, block_tokens: usize) -> impl Iterator<Item = Block<'_>> + Clone {
        let elements = block_tokens * self.head_dim;
        let parts = self.keys.chunks(elements).zip(self.values.chunks(elements));
        parts.map(|(keys, values)| Block { keys, values })
    }
}

/// The largest magnitude of a slice's elements.
fn most(elements: impl Iterator<Item = f64>) -> f64 {
    elements.fold(0.0, |most, x| most.max(x.abs()))
}

/// Attention of one query over the first `tokens` of `cache`: values weighted by the softmax, and the log-sum-exp.
pub(super) fn attend(
    shape: &AttentionShape,
    query: &[f32],
    cache: &Cache,
    tokens: usize,
) -> (Vec<f64>, f64) {
    let stored = |elements: &[u16]| {
        elements.iter().map(|&bits| reference::widen(shape.dtype(), bits)).collect()
    };
    let rows = Rows { keys: stored(&cache.keys), values: stored(&cache.values) };
    reference::attend(&rows, query, shape.scale().into(), 0..tokens)
}

/// The largest difference of two vectors.
pub(super) fn distance(ours: &[f32], exact: &[f64]) -> f64 {
    assert_eq!(ours.len(), exact.len());
    let differences = ours.iter().zip(exact).map(|(a, b)| (f64::from(*a) - b).abs());
    differences.fold(0.0, |most, x| if x.is_nan() { x } else { most.max(x) })
}

/// Attention with each instruction set that this CPU has.
pub(super) fn on_every_isa(shape: AttentionShape) -> impl Iterator<Item = CpuAttention> {
    Isa::ALL.into_iter().filter_map(move |isa| CpuAttention::with_isa(shape, isa))
}

/// How far single precision may be off when the largest of the scores is `score` and of the values `value`: the rounding
/// of a score, which is relative to the score, makes all the difference.
pub(super) fn tolerance(score: f64, value: f64) -> f64 {
    2e-6 * (1.0 + score.abs()) * value
}
