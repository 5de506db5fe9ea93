//! The forward pass over small models with arbitrary weights, against candle-transformers and against the formulas in f64.

use std::path::Path;

use crate::support::attention::InMemory;
use crate::support::candle::Reference;
use crate::support::gguf::Tiny;
use crate::support::naive;
use candle_core::Device;
use candle_core::quantized::GgmlDType;
use hindsight_gpu_worker::attention::{Attention, AttentionResult};
use hindsight_gpu_worker::model::{Logits, ModelError, Transformer};
use proptest::prelude::*;

pub(crate) fn llama() -> Tiny {
    Tiny {
        architecture: "llama",
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        feed_forward: 512,
        vocabulary: 320,
        dtypes: [GgmlDType::F32; 4],
        tied: true,
        rope_factors: None,
    }
}

fn qwen2() -> Tiny {
    Tiny { architecture: "qwen2", tied: false, ..llama() }
}

pub(crate) fn load(path: &Path) -> Transformer {
    Transformer::load(path, &Device::Cpu).unwrap()
}

pub(crate) fn prompt(tokens: usize) -> Vec<u32> {
    (0..tokens as u32).map(|i| i * i * 7 % 319).collect()
}

/// Logits of every position, the tokens being given in chunks of the sizes that `sizes` repeats.
fn logits_in_chunks(model: &Transformer, tokens: &[u32], sizes: &[usize]) -> Vec<Vec<f32>> {
    let mut attention = InMemory::default();
    let mut logits = vec![];
    let mut sizes = sizes.iter().cycle();
    while logits.len() < tokens.len() {
        let start = logits.len();
        let end = tokens.len().min(start + sizes.next().unwrap());
        let chunk = model.forward(&tokens[start..end], start, &mut attention, Logits::All).unwrap();
        logits.extend(chunk.unwrap().to_vec2::<f32>().unwrap());
    }
    logits
}

/// The largest difference, as a share of the largest reference value.
fn error(ours: &[f32], reference: impl IntoIterator<Item = f64>) -> f64 {
    let (mut worst, mut largest) = (0f64, 0f64);
    for (a, b) in ours.iter().zip(reference) {
        worst = worst.max((f64::from(*a) - b).abs());
        largest = largest.max(b.abs());
    }
    worst / largest
}

fn assert_follows_formulas(model: &Tiny) {
    let tokens = prompt(100);
    let ours = logits_in_chunks(&load(model.write().path()), &tokens, &[40, 7, 1]);
    for (position, (ours, expected)) in ours.iter().zip(naive::logits(model, &tokens)).enumerate() {
        let error = error(ours, expected);
        assert!(error < 1e-4, "{}: off by {error:e} at position {position}", model.architecture);
    }
}

#[test]
fn llama_follows_the_formulas() {
    assert_follows_formulas(&llama());
}

#[test]
fn llama_3_rope_factors_follow_the_formulas() {
    let factors = (0..32).map(|i| if i < 12 { 1.0 } else { 1.0 + (i - 11) as f32 / 3.0 }).collect();
    assert_follows_formulas(&Tiny { rope_factors: Some(factors), ..llama() });
}

#[test]
fn qwen2_follows_the_formulas() {
    assert_follows_formulas(&qwen2());
}

/// The mean square of the differences, as a share of that of the exact values.
fn mean_square_error(found: &[Vec<f32>], exact: &[Vec<f64>]) -> f64 {
    let (mut off, mut all) = (0f64, 0f64);
    for (found, exact) in found.iter().flatten().zip(exact.iter().flatten()) {
        off += (f64::from(*found) - exact).powi(2);
        all += exact.powi(2);
    }
    off / all
}

/// Quantized products are exact for neither of us, and one rounding that falls the other way spreads: what can be asked is
/// that our logits are as near to the exact ones as candle's.
fn assert_as_exact_as_candle(model: &Tiny) {
    let file = model.write();
    let tokens = prompt(24);
    let exact = naive::logits(model, &tokens);
    let ours = logits_in_chunks(&load(file.path()), &tokens, &[15, 1]);
    let mut candle = Reference::load(file.path());
    let theirs: Vec<_> =
        (0..).zip(&tokens).map(|(position, &token)| candle.forward(&[token], position)).collect();
    let (ours, theirs) = (mean_square_error(&ours, &exact), mean_square_error(&theirs, &exact));
    let name = format!("{} {:?}", model.architecture, model.dtypes);
    assert!(ours < 1.3 * theirs + 1e-9, "{name}: ours is off by {ours:e}, candle's by {theirs:e}");
    assert!(theirs < 0.01, "{name}: candle's own is off by {theirs:e}");
}

#[test]
fn every_quantization_is_as_exact_as_candle() {
    use GgmlDType::*;
    let mixes = [
        [Q8_0, Q4_0, Q5_0, Q8_0],
        [Q4_1, Q4_1, Q4_1, Q8_0],
        [Q5_0, Q5_1, Q6K, Q5_0],
        [Q4K, Q4K, Q6K, Q6K],
        [Q5K, Q3K, Q2K, Q4K],
        [F16, BF16, F32, F16],
    ];
    for dtypes in mixes {
        assert_as_exact_as_candle(&Tiny { dtypes, ..llama() });
        assert_as_exact_as_candle(&Tiny { dtypes, ..qwen2() });
    }
}

#[test]
fn threads_do_not_change_the_result() {
    let model = load(Tiny { dtypes: [GgmlDType::Q8_0; 4], ..llama() }.write().path());
    let tokens = prompt(200);
    let alone = logits_in_chunks(&model, &tokens, &[199, 1]);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    assert_eq!(pool.install(|| logits_in_chunks(&model, &tokens, &[199, 1])), alone);
}

#[test]
fn missing_and_misshapen_tensors_are_named() {
    let error = |model: &Tiny, kind| {
        let error = Transformer::load(model.write().path(), &Device::Cpu).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        error.to_string()
    };
    let factors = Some(vec![1.0; 31]);
    assert!(
        error(&Tiny { rope_factors: factors, ..llama() }, "model_tensor_shape")
            .contains("rope_freqs.weight")
    );
    // Written with llama's tensors, read with qwen2's keys: the biases are missing.
    let file = qwen2().write();
    let bytes = std::fs::read(file.path()).unwrap();
    let needle = b"blk.1.attn_k.bias";
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    let mut damaged = bytes;
    damaged[at] = b'X';
    std::fs::write(file.path(), damaged).unwrap();
    let missing = Transformer::load(file.path(), &Device::Cpu).unwrap_err();
    assert_eq!(missing.kind(), "model_tensor_missing");
    assert!(missing.to_string().contains("blk.1.attn_k.bias"), "{missing}");
}

#[test]
fn tokens_outside_the_vocabulary_and_empty_chunks_are_errors() {
    let model = load(llama().write().path());
    let mut attention = InMemory::default();
    let error = model.forward(&[0, 320], 0, &mut attention, Logits::Last).unwrap_err();
    assert!(matches!(error, ModelError::Token { token: 320, vocabulary: 320 }), "{error}");
    let error = model.forward(&[], 0, &mut attention, Logits::Last).unwrap_err();
    assert!(matches!(error, ModelError::NoTokens), "{error}");
}

struct Broken;

impl Attention for Broken {
    fn forward(
        &mut self,
        layer: usize,
        _: usize,
        q: &candle_core::Tensor,
        _: &candle_core::Tensor,
        _: &candle_core::Tensor,
    ) -> AttentionResult {
        if layer == 1 { Err("the indexer is gone".into()) } else { Ok(q.flatten_from(1)?) }
    }
}

#[test]
fn what_the_attention_reports_comes_through() {
    let model = load(llama().write().path());
    let error = model.forward(&[1, 2], 0, &mut Broken, Logits::Last).unwrap_err();
    assert_eq!(error.kind(), "attention_failed");
    assert_eq!(error.to_string(), "attention of layer 1: the indexer is gone");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn chunks_do_not_change_the_result(sizes in prop::collection::vec(1usize..30, 1..5)) {
        let model = load(qwen2().write().path());
        let tokens = prompt(60);
        let whole = logits_in_chunks(&model, &tokens, &[60]);
        for (whole, chunked) in whole.iter().zip(logits_in_chunks(&model, &tokens, &sizes)) {
            prop_assert!(error(&chunked, whole.iter().copied().map(f64::from)) < 1e-4);
        }
    }

    #[test]
    fn a_truncated_file_is_an_error(share in 0.0f64..1.0) {
        let file = llama().write();
        let length = file.as_file().metadata().unwrap().len();
        file.as_file().set_len((length as f64 * share) as u64).unwrap();
        let error = Transformer::load(file.path(), &Device::Cpu).unwrap_err();
        prop_assert!(["not_gguf", "gguf_truncated"].contains(&error.kind()), "{}", error);
    }
}
