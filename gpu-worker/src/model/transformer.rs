//! The whole model: embedding, layers, output head.

use std::path::Path;

use candle_core::{Device, Tensor};

use super::layer::{Layer, Pass};
use super::linear::Linear;
use super::rope::Rope;
use super::tensors::TensorReader;
use super::{ModelConfig, ModelError, RopeScaling, ops};
use crate::attention::{Attention, Rehearsal};
use crate::gguf::GgufFile;

/// Which positions of a chunk need logits. The output head is a large part of a short chunk's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// No position: the chunk only fills the KV cache.
    None,
    /// The chunk's last position.
    Last,
    /// Every position of the chunk.
    All,
}

/// A decoder-only transformer with its weights.
#[derive(Debug)]
pub struct Transformer {
    config: ModelConfig,
    device: Device,
    rope: Rope,
    embedding: Linear,
    layers: Vec<Layer>,
    norm: Tensor,
    /// The output head, where it is not the embedding.
    head: Option<Linear>,
}

impl Transformer {
    /// Loads a model from a GGUF file.
    ///
    /// Reads each weight once and keeps quantized weights in the file's own blocks, the token embedding too: the memory
    /// taken is about the file's size.
    ///
    /// # Errors
    ///
    /// The file is not GGUF, its model is not supported, or a tensor is missing, truncated or of the wrong shape.
    pub fn load(path: &Path, device: &Device) -> Result<Self, ModelError> {
        let file = GgufFile::open(path)?;
        let config = ModelConfig::from_gguf(file.content())?;
        let tensors = TensorReader::new(&file);
        let matrix =
            |name| Linear::load(&tensors, name, config.vocabulary, config.embedding, device);
        Ok(Self {
            device: device.clone(),
            rope: Rope::new(&config.rope, rope_factors(&tensors, &config)?.as_deref(), device)?,
            embedding: matrix("token_embd")?,
            layers: (0..config.layers)
                .map(|index| Layer::load(&tensors, &config, index, device))
                .collect::<Result<_, _>>()?,
            norm: tensors.vector("output_norm.weight", config.embedding, device)?,
            head: if config.tied_embeddings { None } else { Some(matrix("output")?) },
            config,
        })
    }

    /// The model's shape.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Runs a chunk of tokens at the positions `start..start + tokens.len()` through all layers.
    ///
    /// Chunks follow one another without gaps, the first at position 0; how long they are does not change the result
    /// beyond rounding. Returns the logits that `logits` asks for, f32: `[1, vocabulary]` for the last position,
    /// `[tokens, vocabulary]` for all, nothing for none.
    ///
    /// # Errors
    ///
    /// A token outside the vocabulary, no tokens, or what the attention reports.
    pub fn forward(
        &self,
        tokens: &[u32],
        start: usize,
        attention: &mut dyn Attention,
        logits: Logits,
    ) -> Result<Option<Tensor>, ModelError> {
        let last_row = tokens.len().checked_sub(1).ok_or(ModelError::NoTokens)?;
        let vocabulary = self.config.vocabulary;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(ModelError::Token { token, vocabulary });
        }
        let (last, before) =
            self.layers.split_last().expect("a configuration has at least one layer");
        let rope = self.rope.table(start, tokens.len())?;

        let mut pass = Pass { config: &self.config, start, rope: &rope, attention };
        let mut x = self.embedding.rows(tokens, &self.device)?;
        for (index, layer) in before.iter().enumerate() {
            let next = &self.layers[index + 1];
            let rehearsal =
                if tokens.len() == 1 { pass.attention.rehearses(index + 1, start) } else { None };
            let early = (rehearsal == Some(Rehearsal::Early)).then_some(next);
            let attended = layer.attend(&mut pass, &x, early)?;
            x = layer.join(&x, &attended)?;
            if rehearsal == Some(Rehearsal::Late) {
                next.rehearse(&mut pass, &x)?;
            }
            x = layer.feed_forward(&self.config, &x)?;
        }

        // Past the last layer's keys and values, only the positions whose logits are wanted matter.
        let attended = last.attend(&mut pass, &x, None)?;
        let (x, attended) = match logits {
            Logits::None => return Ok(None),
            Logits::All => (x, attended),
            Logits::Last => (x.narrow(0, last_row, 1)?, attended.narrow(0, last_row, 1)?),
        };
        let x = last.join(&x, &attended)?;
        let x = last.feed_forward(&self.config, &x)?;
        let x = ops::rms_norm(&x, &self.norm, self.config.rms_epsilon)?;
        Ok(Some(self.head.as_ref().unwrap_or(&self.embedding).forward(&x)?))
    }
}

/// The factors of Llama 3's frequency scaling, where the model has them.
fn rope_factors(
    tensors: &TensorReader<'_>,
    config: &ModelConfig,
) -> Result<Option<Vec<f32>>, ModelError> {
    if config.rope.scaling != RopeScaling::PerFrequency {
        return Ok(None);
    }
    Ok(Some(
        tensors.vector("rope_freqs.weight", config.rope.dimension / 2, &Device::Cpu)?.to_vec1()?,
    ))
}
