//! The forward pass as the formulas say it: f64, one position after the other.

use std::collections::HashMap;

use candle_core::Device;

use super::gguf::Tiny;

struct Matrix {
    columns: usize,
    values: Vec<f64>,
}

impl Matrix {
    fn row(&self, index: usize) -> &[f64] {
        &self.values[index * self.columns..(index + 1) * self.columns]
    }

    fn times(&self, x: &[f64]) -> Vec<f64> {
        self.values.chunks_exact(self.columns).map(|row| dot(row, x)).collect()
    }
}

/// Logits of every position of `tokens`.
pub(crate) fn logits(model: &Tiny, tokens: &[u32]) -> Vec<Vec<f64>> {
    let weights: HashMap<String, Matrix> = model
        .tensors()
        .into_iter()
        .map(|(name, tensor)| {
            let columns = *tensor.shape().dims().last().unwrap();
            let values = tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
            let values = values.to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect();
            (name, Matrix { columns, values })
        })
        .collect();
    let head = weights.get("output.weight").unwrap_or(&weights["token_embd.weight"]);
    let mut cache = vec![(vec![], vec![]); model.layers];
    let step = |(position, &token): (usize, &u32)| {
        let mut x = weights["token_embd.weight"].row(token as usize).to_vec();
        for (layer, (keys, values)) in cache.iter_mut().enumerate() {
            let weight = |part: &str| &weights[&format!("blk.{layer}.{part}")];
            let project = |part: &str, x: &[f64]| {
                let y = weight(&format!("{part}.weight")).times(x);
                match weights.get(&format!("blk.{layer}.{part}.bias")) {
                    Some(bias) => add(&y, &bias.values),
                    None => y,
                }
            };
            let h = rms_norm(&x, &weight("attn_norm.weight").values);
            keys.push(rotate(model, position, project("attn_k", &h)));
            values.push(project("attn_v", &h));
            let q = rotate(model, position, project("attn_q", &h));
            x = add(&x, &project("attn_output", &attend(model, &q, keys, values)));

            let h = rms_norm(&x, &weight("ffn_norm.weight").values);
            let gated: Vec<f64> = project("ffn_gate", &h)
                .into_iter()
                .zip(project("ffn_up", &h))
                .map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up)
                .collect();
            x = add(&x, &project("ffn_down", &gated));
        }
        head.times(&rms_norm(&x, &weights["output_norm.weight"].values))
    };
    tokens.iter().enumerate().map(step).collect()
}

fn attend(model: &Tiny, q: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>]) -> Vec<f64> {
    let size = model.head_dim;
    let group = model.heads / model.kv_heads;
    let mut out = vec![];
    for head in 0..model.heads {
        let q = &q[head * size..][..size];
        let part = head / group * size..(head / group + 1) * size;
        let scores = keys.iter().map(|key| dot(q, &key[part.clone()]) / (size as f64).sqrt());
        let weights: Vec<f64> = scores.map(f64::exp).collect();
        let sum: f64 = weights.iter().sum();
        let attended =
            part.map(|i| weights.iter().zip(values).map(|(w, v)| w / sum * v[i]).sum::<f64>());
        out.extend(attended);
    }
    out
}

/// Llama's pairs lie side by side, Qwen2's half a head apart.
fn rotate(model: &Tiny, position: usize, mut x: Vec<f64>) -> Vec<f64> {
    let half = model.head_dim / 2;
    for head in x.chunks_exact_mut(model.head_dim) {
        for i in 0..half {
            let factor = model.rope_factors.as_ref().map_or(1.0, |factors| f64::from(factors[i]));
            let frequency = 10_000f64.powf(-(i as f64) / half as f64) / factor;
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            let (a, b) =
                if model.architecture == "llama" { (2 * i, 2 * i + 1) } else { (i, i + half) };
            (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
        }
    }
    x
}

fn rms_norm(x: &[f64], weight: &[f64]) -> Vec<f64> {
    let scale = (dot(x, x) / x.len() as f64 + 1e-6).sqrt();
    x.iter().zip(weight).map(|(x, w)| x / scale * w).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}
