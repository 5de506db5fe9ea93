//! A model's shape, from the metadata of its GGUF file.

use std::fmt;

use candle_core::quantized::gguf_file::{Content, Value};
use serde::{Deserialize, Serialize};

use super::ModelError;
use super::metadata::{Keys, abridged};

const MAX_LAYERS: usize = 1024;
const MAX_HEADS: usize = 1024;
const MAX_HEAD_DIM: usize = 512;
const MAX_WIDTH: usize = 1 << 20;
const MAX_VOCABULARY: usize = 1 << 24;
const MAX_CONTEXT: usize = 1 << 30;

/// A family of models that the forward pass computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// Llama and its like (Mistral, SmolLM2): interleaved rotary pairs.
    Llama,
    /// Qwen2 and Qwen2.5: biases on queries, keys and values, rotary halves.
    Qwen2,
}

impl Architecture {
    /// The name that `general.architecture` and the metadata keys use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
        }
    }

    fn rope_style(self) -> RopeStyle {
        match self {
            Self::Llama => RopeStyle::Interleaved,
            Self::Qwen2 => RopeStyle::Halves,
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which dimensions of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeStyle {
    /// `2i` with `2i + 1`.
    Interleaved,
    /// `i` with `i + dimension / 2` ("NEOX").
    Halves,
}

/// How the rotary frequencies are stretched for contexts beyond the first training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions are divided by the factor.
    Linear(f64),
    /// Each frequency is divided by its own factor, read from the tensor `rope_freqs.weight` (Llama 3.1 and later).
    PerFrequency,
}

/// Rotary position embedding.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RopeConfig {
    /// Which dimensions are paired.
    pub style: RopeStyle,
    /// The base of the frequencies.
    pub theta: f64,
    /// How many leading dimensions of a head are rotated; even, at most the head's size.
    pub dimension: usize,
    /// How frequencies are stretched.
    pub scaling: RopeScaling,
}

/// A model's shape: everything but the weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// Transformer layers.
    pub layers: usize,
    /// Query heads of a layer.
    pub heads: usize,
    /// Key and value heads of a layer; divides `heads`.
    pub kv_heads: usize,
    /// Elements of a head's query, key or value; even.
    pub head_dim: usize,
    /// Width of the residual stream.
    pub embedding: usize,
    /// Width of the feed-forward layer.
    pub feed_forward: usize,
    /// Number of tokens.
    pub vocabulary: usize,
    /// Added to the mean square in RMS norms.
    pub rms_epsilon: f32,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// The number of positions that the model was trained for.
    pub trained_context: usize,
    /// Whether the output head is the token embedding.
    pub tied_embeddings: bool,
}

impl ModelConfig {
    /// Reads a model's shape from a GGUF header. Touches no weights.
    ///
    /// # Errors
    ///
    /// Names the key (or tensor) that is missing, absurd, contradicts another or asks for what is not supported: an
    /// unknown architecture, experts, a sliding window, YaRN.
    pub fn from_gguf(content: &Content) -> Result<Self, ModelError> {
        let architecture = architecture(content)?;
        let keys = Keys { content, prefix: architecture.name() };
        keys.reject_unsupported()?;

        let layers = keys.size("block_count", MAX_LAYERS)?;
        let heads = keys.size("attention.head_count", MAX_HEADS)?;
        let kv_heads = keys.optional_size("attention.head_count_kv", MAX_HEADS)?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(keys.invalid(
                "attention.head_count_kv",
                format!("does not divide the {heads} query heads"),
            ));
        }
        let embedding = keys.size("embedding_length", MAX_WIDTH)?;
        let head_dim = keys.head_dim(embedding, heads)?;
        let feed_forward = keys.size("feed_forward_length", MAX_WIDTH)?;
        let trained_context = keys.size("context_length", MAX_CONTEXT)?;

        let rms_epsilon = keys.float("attention.layer_norm_rms_epsilon")?;
        if !(rms_epsilon > 0.0 && rms_epsilon < 1.0) {
            return Err(
                keys.invalid("attention.layer_norm_rms_epsilon", "is not between 0 and 1".into())
            );
        }
        keys.reject_sliding_window(trained_context)?;

        Ok(Self {
            architecture,
            layers,
            heads,
            kv_heads,
            head_dim,
            embedding,
            feed_forward,
            vocabulary: vocabulary(content, embedding)?,
            rms_epsilon,
            rope: keys.rope(architecture.rope_style(), head_dim)?,
            trained_context,
            tied_embeddings: !content.tensor_infos.contains_key("output.weight"),
        })
    }

    /// Width of all query heads together.
    #[must_use]
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads together, which is that of all value heads together.
    #[must_use]
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

fn architecture(content: &Content) -> Result<Architecture, ModelError> {
    const KEY: &str = "general.architecture";
    match content.metadata.get(KEY) {
        Some(Value::String(name)) => match name.as_str() {
            "llama" => Ok(Architecture::Llama),
            "qwen2" => Ok(Architecture::Qwen2),
            _ => Err(ModelError::UnsupportedArchitecture {
                architecture: name.chars().take(64).collect(),
            }),
        },
        Some(other) => Err(ModelError::InvalidValue {
            key: KEY.into(),
            value: abridged(other),
            reason: "is not text".into(),
        }),
        None => Err(ModelError::MissingKey { key: KEY.into() }),
    }
}

/// The number of rows of the token embedding, which is what bounds a token: `vocab_size` is optional in GGUF.
fn vocabulary(content: &Content, embedding: usize) -> Result<usize, ModelError> {
    const NAME: &str = "token_embd.weight";
    let info = content
        .tensor_infos
        .get(NAME)
        .ok_or_else(|| ModelError::MissingTensor { name: NAME.into() })?;
    match *info.shape.dims() {
        [rows, columns] if columns == embedding && (1..=MAX_VOCABULARY).contains(&rows) => Ok(rows),
        ref found => Err(ModelError::TensorShape {
            name: NAME.into(),
            expected: vec![found.first().copied().unwrap_or(0).clamp(1, MAX_VOCABULARY), embedding],
            found: found.to_vec(),
        }),
    }
}

impl Keys<'_> {
    fn head_dim(&self, embedding: usize, heads: usize) -> Result<usize, ModelError> {
        let (name, head_dim) = match self.optional_size("attention.key_length", MAX_WIDTH)? {
            Some(length) => ("attention.key_length", length),
            None if embedding.is_multiple_of(heads) => ("embedding_length", embedding / heads),
            None => {
                return Err(self
                    .invalid("embedding_length", format!("is no multiple of the {heads} heads")));
            }
        };
        if head_dim % 2 == 1 || head_dim > MAX_HEAD_DIM {
            let reason =
                format!("makes heads of {head_dim}, which must be even and at most {MAX_HEAD_DIM}");
            return Err(self.invalid(name, reason));
        }
        match self.optional_size("attention.value_length", MAX_WIDTH)? {
            Some(length) if length != head_dim => {
                let what = format!("a value head of {length} beside a key head of {head_dim}");
                Err(self.unsupported("attention.value_length", what))
            }
            _ => Ok(head_dim),
        }
    }

    fn rope(&self, style: RopeStyle, head_dim: usize) -> Result<RopeConfig, ModelError> {
        let dimension = self.optional_size("rope.dimension_count", MAX_WIDTH)?.unwrap_or(head_dim);
        if dimension % 2 == 1 || dimension > head_dim {
            let reason = format!("must be even and at most the head's size {head_dim}");
            return Err(self.invalid("rope.dimension_count", reason));
        }
        Ok(RopeConfig {
            style,
            theta: self.positive_float("rope.freq_base", 10_000.0)?,
            dimension,
            scaling: self.rope_scaling()?,
        })
    }

    fn rope_scaling(&self) -> Result<RopeScaling, ModelError> {
        const TYPE: &str = "rope.scaling.type";
        let linear = match self.get(TYPE) {
            None => false,
            Some(Value::String(name)) => match name.as_str() {
                "none" => false,
                "linear" => true,
                name => {
                    let name: String = name.chars().take(64).collect();
                    return Err(self.unsupported(TYPE, format!("RoPE scaling {name:?}")));
                }
            },
            Some(_) => return Err(self.invalid(TYPE, "is not text".into())),
        };
        match (linear, self.content.tensor_infos.contains_key("rope_freqs.weight")) {
            (false, false) => Ok(RopeScaling::None),
            (false, true) => Ok(RopeScaling::PerFrequency),
            (true, true) => {
                Err(self.unsupported(TYPE, "linear scaling together with rope_freqs.weight".into()))
            }
            (true, false) => {
                let name = "rope.scaling.factor";
                self.get(name).ok_or_else(|| ModelError::MissingKey { key: self.key(name) })?;
                Ok(RopeScaling::Linear(self.positive_float(name, 1.0)?))
            }
        }
    }

    fn reject_unsupported(&self) -> Result<(), ModelError> {
        match self.optional_integer("expert_count")? {
            Some(experts) if experts > 0 => {
                Err(self.unsupported("expert_count", format!("a mixture of {experts} experts")))
            }
            _ => Ok(()),
        }
    }

    /// A window no shorter than the trained context changes nothing inside it; files of plain models carry such ones.
    fn reject_sliding_window(&self, trained_context: usize) -> Result<(), ModelError> {
        match self.optional_integer("attention.sliding_window")? {
            Some(window) if window > 0 && window < trained_context => Err(self.unsupported(
                "attention.sliding_window",
                format!("a sliding window of {window} tokens"),
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::Shape;
    use candle_core::quantized::GgmlDType;
    use candle_core::quantized::gguf_file::{TensorInfo, VersionedMagic};
    use proptest::prelude::*;

    use super::*;

    fn tensor(shape: &[usize]) -> TensorInfo {
        TensorInfo { ggml_dtype: GgmlDType::F32, shape: Shape::from(shape), offset: 0 }
    }

    fn llama() -> Content {
        let metadata = [
            ("general.architecture", Value::String("llama".into())),
            ("llama.block_count", Value::U32(30)),
            ("llama.context_length", Value::U32(8192)),
            ("llama.embedding_length", Value::U32(576)),
            ("llama.feed_forward_length", Value::U32(1536)),
            ("llama.attention.head_count", Value::U32(9)),
            ("llama.attention.head_count_kv", Value::U32(3)),
            ("llama.rope.freq_base", Value::F32(1e5)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ];
        Content {
            magic: VersionedMagic::GgufV3,
            metadata: metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            tensor_infos: HashMap::from([("token_embd.weight".to_owned(), tensor(&[49152, 576]))]),
            tensor_data_offset: 0,
        }
    }

    fn with(key: &str, value: Value) -> Content {
        let mut content = llama();
        content.metadata.insert(key.into(), value);
        content
    }

    fn error(content: &Content) -> (&'static str, String) {
        let error = ModelConfig::from_gguf(content).expect_err("the metadata is wrong");
        (error.kind(), error.to_string())
    }

    #[test]
    fn reads_a_llama() {
        let config = ModelConfig::from_gguf(&llama()).unwrap();
        assert_eq!(config.architecture, Architecture::Llama);
        assert_eq!((config.layers, config.heads, config.kv_heads, config.head_dim), (30, 9, 3, 64));
        assert_eq!((config.embedding, config.feed_forward, config.vocabulary), (576, 1536, 49152));
        assert_eq!((config.query_width(), config.kv_width()), (576, 192));
        assert_eq!(config.rope.style, RopeStyle::Interleaved);
        assert_eq!((config.rope.theta, config.rope.dimension), (1e5, 64));
        assert_eq!(config.rope.scaling, RopeScaling::None);
        assert!(config.tied_embeddings);
    }

    #[test]
    fn reads_what_is_optional() {
        let mut content = with("llama.attention.key_length", Value::U64(128));
        content.metadata.remove("llama.attention.head_count_kv");
        content.metadata.remove("llama.rope.freq_base");
        content.tensor_infos.insert("output.weight".into(), tensor(&[49152, 576]));
        content.tensor_infos.insert("rope_freqs.weight".into(), tensor(&[64]));
        let config = ModelConfig::from_gguf(&content).unwrap();
        assert_eq!((config.head_dim, config.kv_heads, config.rope.theta), (128, 9, 10_000.0));
        assert_eq!(config.rope.scaling, RopeScaling::PerFrequency);
        assert!(!config.tied_embeddings);
    }

    #[test]
    fn reads_linear_scaling() {
        let mut content = with("llama.rope.scaling.type", Value::String("linear".into()));
        assert!(error(&content).1.contains("llama.rope.scaling.factor"));
        content.metadata.insert("llama.rope.scaling.factor".into(), Value::F32(4.0));
        assert_eq!(
            ModelConfig::from_gguf(&content).unwrap().rope.scaling,
            RopeScaling::Linear(4.0)
        );
    }

    #[test]
    fn names_an_unknown_architecture_and_the_supported_ones() {
        let (kind, message) = error(&with("general.architecture", Value::String("gemma3".into())));
        assert_eq!(kind, "model_architecture_unsupported");
        assert!(message.contains("gemma3") && message.contains("llama, qwen2"), "{message}");
    }

    #[test]
    fn names_the_key_that_is_wrong() {
        let cases = [
            ("general.architecture", Value::U32(1), "model_metadata_invalid"),
            ("llama.block_count", Value::U32(0), "model_metadata_invalid"),
            ("llama.block_count", Value::U32(1025), "model_metadata_invalid"),
            ("llama.block_count", Value::String("30".into()), "model_metadata_invalid"),
            ("llama.attention.head_count", Value::U32(0), "model_metadata_invalid"),
            ("llama.attention.head_count", Value::I32(-9), "model_metadata_invalid"),
            ("llama.attention.head_count_kv", Value::U32(2), "model_metadata_invalid"),
            (
                "llama.attention.head_count_kv",
                Value::Array(vec![Value::U32(3)]),
                "model_feature_unsupported",
            ),
            ("llama.embedding_length", Value::U32(577), "model_metadata_invalid"),
            ("llama.embedding_length", Value::U64(u64::MAX), "model_metadata_invalid"),
            ("llama.attention.key_length", Value::U32(63), "model_metadata_invalid"),
            ("llama.attention.key_length", Value::U32(1024), "model_metadata_invalid"),
            ("llama.attention.value_length", Value::U32(32), "model_feature_unsupported"),
            ("llama.rope.dimension_count", Value::U32(128), "model_metadata_invalid"),
            ("llama.rope.dimension_count", Value::U32(0), "model_metadata_invalid"),
            ("llama.rope.freq_base", Value::F32(0.0), "model_metadata_invalid"),
            ("llama.rope.freq_base", Value::F32(f32::NAN), "model_metadata_invalid"),
            ("llama.rope.scaling.type", Value::String("yarn".into()), "model_feature_unsupported"),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(-1.0), "model_metadata_invalid"),
            ("llama.context_length", Value::U32(0), "model_metadata_invalid"),
            ("llama.expert_count", Value::U32(8), "model_feature_unsupported"),
            ("llama.attention.sliding_window", Value::U32(4096), "model_feature_unsupported"),
        ];
        for (key, value, expected) in cases {
            let (kind, message) = error(&with(key, value.clone()));
            assert_eq!(kind, expected, "{key} = {value:?}: {message}");
            assert!(message.contains(key), "{key} = {value:?}: {message}");
        }
    }

    #[test]
    fn names_the_key_that_is_missing() {
        for key in llama().metadata.keys() {
            if key == "llama.attention.head_count_kv" || key == "llama.rope.freq_base" {
                continue;
            }
            let mut content = llama();
            content.metadata.remove(key);
            let (kind, message) = error(&content);
            assert_eq!(kind, "model_metadata_missing");
            assert!(message.contains(key.as_str()), "{message}");
        }
    }

    #[test]
    fn a_window_beyond_the_trained_context_is_none() {
        ModelConfig::from_gguf(&with("llama.attention.sliding_window", Value::U32(8192))).unwrap();
    }

    #[test]
    fn the_embedding_must_be_there_and_fit() {
        let mut content = llama();
        content.tensor_infos.insert("token_embd.weight".into(), tensor(&[576, 49152]));
        assert_eq!(error(&content).0, "model_tensor_shape");
        content.tensor_infos.clear();
        assert_eq!(error(&content).0, "model_tensor_missing");
    }

    proptest! {
        #[test]
        fn any_integers_are_answered(layers: u32, heads in 0u32..70, kv in 0u32..70, embedding in 0u32..5000, dim: u16) {
            let mut content = llama();
            for (key, value) in [
                ("llama.block_count", layers),
                ("llama.attention.head_count", heads),
                ("llama.attention.head_count_kv", kv),
                ("llama.embedding_length", embedding),
                ("llama.rope.dimension_count", u32::from(dim)),
            ] {
                content.metadata.insert(key.into(), Value::U32(value));
            }
            content.tensor_infos.insert("token_embd.weight".into(), tensor(&[100, embedding as usize]));
            if let Ok(config) = ModelConfig::from_gguf(&content) {
                prop_assert_eq!(config.heads % config.kv_heads, 0);
                prop_assert!(config.head_dim % 2 == 0 && config.head_dim > 0);
                prop_assert!(config.rope.dimension <= config.head_dim);
            }
        }
    }
}
