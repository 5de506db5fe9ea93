//! Attention in double precision over keys and values as they are stored.

use half::{bf16, f16};
use hindsight_protocol::geometry::KvDtype;

/// Keys and values of one layer and KV head, as numbers that the element type has: `[tokens, head_dim]` each.
#[derive(Debug, Default, Clone)]
pub(in crate::device) struct Rows {
    pub(in crate::device) keys: Vec<f32>,
    pub(in crate::device) values: Vec<f32>,
}

/// Attends a query to the tokens at `positions`, scores being `scale` times dot products: values weighted by the softmax, and
/// the log-sum-exp.
pub(in crate::device) fn attend(
    rows: &Rows,
    query: &[f32],
    scale: f64,
    positions: impl IntoIterator<Item = usize>,
) -> (Vec<f64>, f64) {
    let dim = query.len();
    let scored: Vec<(f64, usize)> = positions
        .into_iter()
        .map(|position| {
            let key = &rows.keys[position * dim..][..dim];
            let dot: f64 = key.iter().zip(query).map(|(&k, &q)| f64::from(k) * f64::from(q)).sum();
            (dot * scale, position)
        })
        .collect();
    let largest = scored.iter().fold(f64::NEG_INFINITY, |most, &(score, _)| most.max(score));
    let sum: f64 = scored.iter().map(|(score, _)| (score - largest).exp()).sum();
    let mut out = vec![0.0; dim];
    for (score, position) in scored {
        let weight = (score - largest).exp() / sum;
        for (out, &value) in out.iter_mut().zip(&rows.values[position * dim..][..dim]) {
            *out += weight * f64::from(value);
        }
    }
    (out, largest + sum.ln())
}

/// Rounds to a stored element.
pub(in crate::device) fn narrow(dtype: KvDtype, element: f32) -> u16 {
    match dtype {
        KvDtype::F16 => f16::from_f32(element).to_bits(),
        KvDtype::Bf16 => bf16::from_f32(element).to_bits(),
    }
}

/// The value of a stored element.
pub(in crate::device) fn widen(dtype: KvDtype, bits: u16) -> f32 {
    match dtype {
        KvDtype::F16 => f16::from_bits(bits).to_f32(),
        KvDtype::Bf16 => bf16::from_bits(bits).to_f32(),
    }
}
