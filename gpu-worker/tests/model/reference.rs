//! The forward pass over a real model: the same greedy tokens as candle-transformers' implementation of it.
//!
//! The model is `$HINDSIGHT_TEST_MODEL`, a GGUF file, or smollm2-135m in the cache. The text is the beginning of Alice's
//! Adventures in Wonderland in SmolLM2's tokens, or the token ids in the file `$HINDSIGHT_TEST_TOKENS`.
//!
//! Quantized activations make every implementation's logits noisy: candle's own are off by a thirtieth of their spread from
//! those of the dequantized weights, ours by as much, in another direction. So candle computes with dequantized weights
//! here, which is exact (and many times faster), and equal tokens are asked for where the text leaves no doubt about the
//! next one: while it counts. In prose, a token may differ where two are about as likely.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{Device, Tensor};
use hindsight_gpu_worker::gguf::GgufFile;
use hindsight_gpu_worker::model::{Logits, Transformer};

use crate::support::attention::InMemory;
use crate::support::candle::Reference;

const GENERATED: usize = 64;
const CHUNK: usize = 256;
/// Where the text begins, after title and contents.
const PROSE: usize = 100;
/// By how much the likeliest token's logit may lead and still not be ours.
const DOUBT: f32 = 0.5;

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

/// The first tokens of "1, 2, 3, …" from `first` on, one for each digit, comma and space.
fn counting(model: &Path, first: u32, length: usize) -> Vec<u32> {
    let file = GgufFile::open(model).unwrap();
    let vocabulary = file.required("tokenizer.ggml.tokens", GgufFile::strings).unwrap();
    let token = |c: char| {
        // Byte-level vocabularies write a space so.
        let text = if c == ' ' { 'Ġ' } else { c }.to_string();
        vocabulary.iter().position(|token| *token == text).unwrap() as u32
    };
    let numbers = (first..).map(|number| format!("{number}, "));
    numbers.flat_map(|number| number.chars().map(token).collect::<Vec<_>>()).take(length).collect()
}

fn flat(logits: Option<Tensor>) -> Vec<f32> {
    logits.unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn likeliest(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap()
}

/// By how much candle's logits prefer its own choice to ours, at each of the greedy tokens that candle puts after `prompt`.
fn doubts(ours: &Transformer, candle: &mut Reference, prompt: &[u32]) -> Vec<f32> {
    let mut attention = InMemory::default();
    let (mut found, mut expected) = (vec![], vec![]);
    for (chunk, start) in prompt.chunks(CHUNK).zip((0..).step_by(CHUNK)) {
        found = flat(ours.forward(chunk, start, &mut attention, Logits::Last).unwrap());
        expected = candle.forward(chunk, start);
    }
    let step = |step| {
        let token = likeliest(&expected);
        let doubt = expected[token] - expected[likeliest(&found)];
        let (next, position) = ([token as u32], prompt.len() + step);
        found = flat(ours.forward(&next, position, &mut attention, Logits::Last).unwrap());
        expected = candle.forward(&next, position);
        doubt
    };
    (0..GENERATED).map(step).collect()
}

#[test]
fn same_greedy_tokens_as_candle() {
    const DEQUANTIZE: &str = "CANDLE_DEQUANTIZE_ALL";
    if env::var_os(DEQUANTIZE).is_none() {
        // candle reads the variable when a thread first looks, and only a process of our own can be sure to be earlier.
        let mut again = Command::new(env::current_exe().unwrap());
        again.args(["--exact", "reference::same_greedy_tokens_as_candle", "--nocapture"]);
        assert!(again.env(DEQUANTIZE, "1").status().unwrap().success());
        return;
    }
    let path = model_path();
    let ours = Transformer::load(&path, &Device::Cpu).unwrap();
    let mut candle = Reference::load(&path);
    for (length, first) in [(16, 1), (512, 10), (3000, 100)] {
        let doubts = doubts(&ours, &mut candle, &counting(&path, first, length));
        assert_eq!(doubts, [0.0; GENERATED], "counting, {length} tokens");
    }
    let text = text();
    for length in [16, 512] {
        let doubts = doubts(&ours, &mut candle, &text[PROSE..][..length]);
        assert!(doubts.iter().all(|&doubt| doubt < DOUBT), "prose, {length} tokens: {doubts:?}");
    }
}
