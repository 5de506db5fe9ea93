//! Small models with arbitrary weights, written as GGUF files.

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use tempfile::NamedTempFile;

/// The shape and the quantization of a small model.
#[derive(Clone)]
pub(crate) struct Tiny {
    pub(crate) architecture: &'static str,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) feed_forward: usize,
    pub(crate) vocabulary: usize,
    /// Of queries, keys, values, attention output; of gate and up; of down; of embedding and head.
    pub(crate) dtypes: [GgmlDType; 4],
    pub(crate) tied: bool,
    pub(crate) rope_factors: Option<Vec<f32>>,
}

impl Tiny {
    pub(crate) fn embedding(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Every tensor by name, as written.
    pub(crate) fn tensors(&self) -> Vec<(String, QTensor)> {
        let mut random = Random(42);
        let embedding = self.embedding();
        let kv = self.kv_heads * self.head_dim;
        let [attention, gate_up, down, ends] = self.dtypes;
        let mut tensors = vec![];
        let mut matrix = |name: String, rows: usize, columns: usize, dtype| {
            let values = random.tensor(&[rows, columns], 1.5 / (columns as f32).sqrt(), 0.0);
            tensors.push((name, QTensor::quantize(&values, dtype).unwrap()));
        };
        matrix("token_embd.weight".into(), self.vocabulary, embedding, ends);
        if !self.tied {
            matrix("output.weight".into(), self.vocabulary, embedding, ends);
        }
        for layer in 0..self.layers {
            matrix(format!("blk.{layer}.attn_q.weight"), embedding, embedding, attention);
            matrix(format!("blk.{layer}.attn_k.weight"), kv, embedding, attention);
            matrix(format!("blk.{layer}.attn_v.weight"), kv, embedding, attention);
            matrix(format!("blk.{layer}.attn_output.weight"), embedding, embedding, attention);
            matrix(format!("blk.{layer}.ffn_gate.weight"), self.feed_forward, embedding, gate_up);
            matrix(format!("blk.{layer}.ffn_up.weight"), self.feed_forward, embedding, gate_up);
            matrix(format!("blk.{layer}.ffn_down.weight"), embedding, self.feed_forward, down);
        }
        let mut vector = |name: String, length: usize, mean: f32| {
            let values = random.tensor(&[length], 0.3, mean);
            tensors.push((name, QTensor::quantize(&values, GgmlDType::F32).unwrap()));
        };
        vector("output_norm.weight".into(), embedding, 1.0);
        for layer in 0..self.layers {
            vector(format!("blk.{layer}.attn_norm.weight"), embedding, 1.0);
            vector(format!("blk.{layer}.ffn_norm.weight"), embedding, 1.0);
            if self.architecture == "qwen2" {
                vector(format!("blk.{layer}.attn_q.bias"), embedding, 0.0);
                vector(format!("blk.{layer}.attn_k.bias"), kv, 0.0);
                vector(format!("blk.{layer}.attn_v.bias"), kv, 0.0);
            }
        }
        if let Some(factors) = &self.rope_factors {
            let factors = Tensor::new(factors.as_slice(), &Device::Cpu).unwrap();
            tensors.push((
                "rope_freqs.weight".into(),
                QTensor::quantize(&factors, GgmlDType::F32).unwrap(),
            ));
        }
        tensors
    }

    pub(crate) fn write(&self) -> NamedTempFile {
        let size = |value: usize| Value::U32(value.try_into().unwrap());
        let metadata = [
            ("block_count", size(self.layers)),
            ("context_length", size(2048)),
            ("embedding_length", size(self.embedding())),
            ("feed_forward_length", size(self.feed_forward)),
            ("attention.head_count", size(self.heads)),
            ("attention.head_count_kv", size(self.kv_heads)),
            ("attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
            ("rope.dimension_count", size(self.head_dim)),
            ("rope.freq_base", Value::F32(10_000.0)),
        ];
        let mut metadata: Vec<(String, Value)> = metadata
            .into_iter()
            .map(|(key, value)| (format!("{}.{key}", self.architecture), value))
            .collect();
        metadata.push(("general.architecture".into(), Value::String(self.architecture.into())));
        let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let tensors = self.tensors();
        let tensors: Vec<_> =
            tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let mut file = NamedTempFile::new().unwrap();
        gguf_file::write(file.as_file_mut(), &metadata, &tensors).unwrap();
        file
    }
}

/// A linear congruential generator: the same values everywhere.
struct Random(u64);

impl Random {
    /// Uniform with the standard deviation `deviation`.
    fn tensor(&mut self, shape: &[usize], deviation: f32, mean: f32) -> Tensor {
        let values: Vec<f32> = (0..shape.iter().product::<usize>())
            .map(|_| {
                self.0 = self
                    .0
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let unit = (self.0 >> 40) as f32 / (1u64 << 24) as f32;
                mean + (unit - 0.5) * deviation * 12f32.sqrt()
            })
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }
}
