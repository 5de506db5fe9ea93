//! The forward pass over a real model: the same greedy tokens as candle-transformers' implementation of it.
//!
//! The model is `$HINDSIGHT_TEST_MODEL`, a GGUF file, or smollm2-135m in the cache. The text is the beginning of Alice's
//! Adventures in Wonderland in SmolLM2's tokens, or the token ids in the file `$HINDSIGHT_TEST_TOKENS`.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use crate::support::attention::InMemory;
use crate::support::candle::Reference;
use candle_core::Device;
use hindsight_gpu_worker::model::{Logits, Transformer};
use hindsight_gpu_worker::sampling::{Sampler, SamplingParameters};

const GENERATED: usize = 64;
const CHUNK: usize = 256;

fn model_path() -> PathBuf {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cached = || {
        let home = set("HINDSIGHT_HOME")
            .or_else(|| Some(set("XDG_CACHE_HOME")?.join("hindsight")))
            .or_else(|| Some(set("HOME")?.join(".cache/hindsight")))?;
        Some(home.join("models/smollm2-135m.gguf"))
    };
    let path = set("HINDSIGHT_TEST_MODEL").or_else(cached).expect("HOME is set");
    assert!(
        path.is_file(),
        "{} is missing: `hindsight pull smollm2-135m` fetches it, or HINDSIGHT_TEST_MODEL names another file",
        path.display()
    );
    path
}

fn text() -> Vec<u32> {
    let ids = match env::var_os("HINDSIGHT_TEST_TOKENS") {
        Some(path) => fs::read_to_string(path).unwrap(),
        None => include_str!("data/alice-smollm2.tokens").to_owned(),
    };
    ids.split_whitespace().map(|id| id.parse().unwrap()).collect()
}

/// Greedy tokens after `prompt`, and for each step the share of the logits' range that our logits are off by at most.
fn assert_same_tokens(length: usize) {
    let path = model_path();
    let ours = Transformer::load(&path, &Device::Cpu).unwrap();
    let mut candle = Reference::load(&path);
    let mut greedy = Sampler::new(SamplingParameters::default()).unwrap();
    let prompt = text()[..length].to_vec();
    let mut attention = InMemory::default();

    let started = Instant::now();
    let (mut start, mut logits) = (0, None);
    for chunk in prompt.chunks(CHUNK) {
        logits = ours.forward(chunk, start, &mut attention, Logits::Last).unwrap();
        start += chunk.len();
    }
    let prefilled = started.elapsed();
    let started = Instant::now();
    let mut expected = vec![];
    for (chunk, start) in prompt.chunks(CHUNK).zip((0..).step_by(CHUNK)) {
        expected = candle.forward(chunk, start);
    }
    let candle_prefilled = started.elapsed();

    let mut worst = 0f32;
    let mut closest = f32::INFINITY;
    for step in 0..GENERATED {
        let ours_now = logits.take().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let token = greedy.sample(&ours_now).unwrap();
        let theirs = greedy.sample(&expected).unwrap();
        let gap = {
            let mut sorted = expected.clone();
            sorted.sort_unstable_by(|a, b| b.total_cmp(a));
            sorted[0] - sorted[1]
        };
        let off = ours_now.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        (worst, closest) = (worst.max(off), closest.min(gap));
        assert_eq!(
            token, theirs,
            "step {step} after {length} tokens: logits off by {off}, candle's lead {gap}"
        );
        let position = length + step;
        logits = ours.forward(&[token], position, &mut attention, Logits::Last).unwrap();
        expected = candle.forward(&[token], position);
    }
    eprintln!(
        "{length} tokens: prefill {prefilled:.2?}, candle {candle_prefilled:.2?}; \
         logits off by at most {worst}, closest lead {closest}"
    );
}

#[test]
fn same_tokens_after_16() {
    assert_same_tokens(16);
}

#[test]
fn same_tokens_after_512() {
    assert_same_tokens(512);
}

#[test]
fn same_tokens_after_3000() {
    assert_same_tokens(3000);
}
