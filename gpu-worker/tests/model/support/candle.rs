//! candle-transformers' models of the same files: the independent implementation.

use std::fs::File;
use std::path::Path;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::{quantized_llama, quantized_qwen2};

pub(crate) enum Reference {
    Llama(quantized_llama::ModelWeights),
    Qwen2(quantized_qwen2::ModelWeights),
}

impl Reference {
    pub(crate) fn load(path: &Path) -> Self {
        let mut file = File::open(path).unwrap();
        let content = Content::read(&mut file).unwrap();
        let architecture = content.metadata["general.architecture"].to_string().unwrap().clone();
        match architecture.as_str() {
            "llama" => Self::Llama(
                quantized_llama::ModelWeights::from_gguf(content, &mut file, &Device::Cpu).unwrap(),
            ),
            "qwen2" => Self::Qwen2(
                quantized_qwen2::ModelWeights::from_gguf(content, &mut file, &Device::Cpu).unwrap(),
            ),
            other => panic!("candle's {other} is not wired up here"),
        }
    }

    /// The logits of the last of `tokens`, the first of which is at `start`.
    pub(crate) fn forward(&mut self, tokens: &[u32], start: usize) -> Vec<f32> {
        let input = Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let logits = match self {
            Self::Llama(model) => model.forward(&input, start),
            Self::Qwen2(model) => model.forward(&input, start),
        };
        logits.unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }
}
