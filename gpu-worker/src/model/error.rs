//! What can be wrong with a model file or a call of the model.

use std::borrow::Cow;
use std::error::Error;

use crate::gguf::GgufError;

/// An error of loading or running a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The file cannot be read, or is no sound GGUF.
    #[error(transparent)]
    Gguf(#[from] GgufError),

    /// The architecture is none of those that this forward pass computes.
    #[error("general.architecture is {architecture:?}; supported are: llama, qwen2")]
    UnsupportedArchitecture {
        /// The file's `general.architecture`.
        architecture: String,
    },

    /// The file asks for something that this forward pass does not compute.
    #[error("{key}: {what} is not supported; use a dense llama or qwen2 model with full attention")]
    Unsupported {
        /// The metadata key or tensor that asks for it.
        key: String,
        /// What it asks for.
        what: String,
    },

    /// The metadata lacks a key.
    #[error(
        "the metadata lacks {key}; the file is incomplete or was not made for this architecture"
    )]
    MissingKey {
        /// The key.
        key: String,
    },

    /// A metadata value is of the wrong type, absurd or contradicts another.
    #[error(
        "the metadata value {key} = {value} {reason}; the file is damaged or was converted wrongly"
    )]
    InvalidValue {
        /// The key.
        key: String,
        /// Its value, abridged.
        value: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A tensor that the architecture needs is not in the file.
    #[error(
        "tensor {name} is missing; the file is incomplete or was not made for this architecture"
    )]
    MissingTensor {
        /// The tensor's name.
        name: String,
    },

    /// A tensor has not the shape that the metadata calls for.
    #[error("tensor {name} has shape {found:?}, but the metadata calls for {expected:?}")]
    TensorShape {
        /// The tensor's name.
        name: String,
        /// Rows first.
        expected: Vec<usize>,
        /// Rows first.
        found: Vec<usize>,
    },

    /// A tensor's data type cannot be used.
    #[error("tensor {name} cannot be used: {reason}")]
    TensorType {
        /// The tensor's name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A token outside the vocabulary.
    #[error(
        "token {token} is outside the model's vocabulary of {vocabulary}; the tokenizer is not this model's"
    )]
    Token {
        /// The token.
        token: u32,
        /// The number of tokens the model knows.
        vocabulary: usize,
    },

    /// A forward pass over no tokens.
    #[error("a forward pass needs at least one token")]
    NoTokens,

    /// The attention failed.
    #[error("attention of layer {layer}: {source}")]
    Attention {
        /// The layer, counted from 0.
        layer: usize,
        /// The implementation's own error.
        source: Box<dyn Error + Send + Sync>,
    },

    /// The attention answered something else than `[tokens, heads * head_dim]`.
    #[error("attention of layer {layer} returned shape {found:?}, expected {expected:?}")]
    AttentionShape {
        /// The layer, counted from 0.
        layer: usize,
        /// `[tokens, heads * head_dim]`.
        expected: Vec<usize>,
        /// What came.
        found: Vec<usize>,
    },

    /// A tensor operation failed: memory, or a fault of this program.
    #[error("tensor operation: {0}")]
    Compute(#[from] candle_core::Error),
}

impl ModelError {
    /// The way out, where the message does not say it.
    #[must_use]
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Gguf(error) => error.hint(),
            _ => None,
        }
    }

    /// A stable name of the error's kind, for machine-readable reports.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Gguf(error) => error.kind(),
            Self::UnsupportedArchitecture { .. } => "model_architecture_unsupported",
            Self::Unsupported { .. } => "model_feature_unsupported",
            Self::MissingKey { .. } => "model_metadata_missing",
            Self::InvalidValue { .. } => "model_metadata_invalid",
            Self::MissingTensor { .. } => "model_tensor_missing",
            Self::TensorShape { .. } => "model_tensor_shape",
            Self::TensorType { .. } => "model_tensor_type",
            Self::Token { .. } => "token_out_of_range",
            Self::NoTokens => "no_tokens",
            Self::Attention { .. } => "attention_failed",
            Self::AttentionShape { .. } => "attention_shape",
            Self::Compute(_) => "compute_failed",
        }
    }
}
