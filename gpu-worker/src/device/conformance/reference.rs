//! Attention in double precision over keys and values as they are stored.

use half::{bf16, f16};
use hindsight_protocol::geometry::KvDtype;

/// Keys and values of one layer and KV head, as numbers that the element type has: `[tokens, head_dim]` each.
#[derive(Debug, Default, Clone)]
pub(super) struct Rows {
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
}

/// Attends a query to the tokens at `positions`.
pub(super) fn attend(
    rows: &Rows,
    query: &[f32],
    positions: impl Iterator<Item = usize>,
) -> Vec<f64> {
    let dim = query.len();
    let scale = 1.0 / (dim as f64).sqrt();
    let scored: Vec<(f64, usize)> = positions
        .map(|position| {
            let key = &rows.keys[position * dim..][..dim];
            let dot: f64 = key.iter().zip(query).map(|(&k, &q)| f64::from(k) * f64::from(q)).sum();
            (dot * scale, position)
        })
        .collect();
    let largest = scored.iter().fold(f64::NEG_INFINITY, |most, &(score, _)| most.max(score));
    let mut out = vec![0.0; dim];
    let mut sum = 0.0;
    for (score, position) in scored {
        let weight = (score - largest).exp();
        sum += weight;
        for (out, &value) in out.iter_mut().zip(&rows.values[position * dim..][..dim]) {
            *out += weight * f64::from(value);
        }
    }
    out.iter_mut().for_each(|element| *element /= sum);
    out
}

/// The nearest number that the element type has.
pub(super) fn round(dtype: KvDtype, element: f32) -> f32 {
    match dtype {
        KvDtype::F16 => f16::from_f32(element).to_f32(),
        KvDtype::Bf16 => bf16::from_f32(element).to_f32(),
    }
}

/// The number that raw 16 bits stand for.
pub(super) fn number(dtype: KvDtype, bits: u16) -> f32 {
    match dtype {
        KvDtype::F16 => f16::from_bits(bits).to_f32(),
        KvDtype::Bf16 => bf16::from_bits(bits).to_f32(),
    }
}
