//! Attention and rounding as they are defined.

use half::{bf16, f16};

use crate::launch::Element;

/// A 16-bit float's bits, rounded to nearest even.
pub(super) fn narrow(element: Element, value: f32) -> u16 {
    match element {
        Element::F16 => f16::from_f32(value).to_bits(),
        Element::Bf16 => bf16::from_f32(value).to_bits(),
    }
}

/// The value of a 16-bit float.
pub(super) fn widen(element: Element, bits: u16) -> f32 {
    match element {
        Element::F16 => f16::from_bits(bits).to_f32(),
        Element::Bf16 => bf16::from_bits(bits).to_f32(),
    }
}

/// Attention of one query to (key, value) rows: output and natural log-sum-exp; 0 and -inf if there are none.
pub(super) fn attend(query: &[f32], rows: &[(&[f32], &[f32])], scale: f32) -> (Vec<f64>, f64) {
    let score = |key: &[f32]| {
        query.iter().zip(key).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum::<f64>()
            * f64::from(scale)
    };
    let scores: Vec<f64> = rows.iter().map(|(key, _)| score(key)).collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut out = vec![0.0; query.len()];
    if rows.is_empty() {
        return (out, f64::NEG_INFINITY);
    }
    let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
    for ((_, value), score) in rows.iter().zip(&scores) {
        let weight = (score - largest).exp() / total;
        out.iter_mut().zip(*value).for_each(|(out, &value)| *out += weight * f64::from(value));
    }
    (out, largest + total.ln())
}
