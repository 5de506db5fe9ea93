//! What candle's own model does with the same file, as a baseline for `hindsight run`: decode speed after a prompt.
//!
//! `cargo run --release -p hindsight-gpu-worker --example candle_decode -- MODEL.gguf TOKENS`

use std::env;
use std::error::Error;
use std::fs::File;
use std::time::Instant;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;

/// Decode steps that are timed.
const STEPS: usize = 32;
/// Prompt tokens that go through the model at once.
const CHUNK: usize = 512;

#[expect(clippy::print_stdout, reason = "this is the program's output")]
fn main() -> Result<(), Box<dyn Error>> {
    let usage = "usage: candle_decode MODEL.gguf TOKENS";
    let mut arguments = env::args().skip(1);
    let path = arguments.next().ok_or(usage)?;
    let tokens: usize = arguments.next().ok_or(usage)?.parse()?;

    let mut file = File::open(path)?;
    let content = Content::read(&mut file)?;
    let mut model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
    // Which tokens they are makes no difference to the speed.
    let prompt: Vec<u32> = (0_u32..).map(|token| token * 7919 % 20_000).take(tokens).collect();
    let began = Instant::now();
    for (chunk, start) in prompt.chunks(CHUNK).zip((0..).step_by(CHUNK)) {
        model.forward(&Tensor::new(chunk, &Device::Cpu)?.unsqueeze(0)?, start)?;
    }
    let prefill = tokens as f64 / began.elapsed().as_secs_f64();
    let mut times = Vec::with_capacity(STEPS);
    for position in tokens..tokens + STEPS {
        let began = Instant::now();
        model.forward(&Tensor::new(&[1000_u32], &Device::Cpu)?.unsqueeze(0)?, position)?;
        times.push(began.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let decode = 1.0 / times[STEPS / 2];
    println!("prefill {prefill:.1} tokens/s, decode after {tokens} tokens {decode:.1} tokens/s");
    Ok(())
}
