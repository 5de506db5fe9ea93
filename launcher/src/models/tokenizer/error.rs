//! Why a tokenizer cannot be built or used.

use std::borrow::Cow;
use std::path::PathBuf;

use super::super::GgufError;
use super::pre_tokenizer::PreTokenizer;

/// A tokenizer cannot be built from a GGUF file, or a text cannot be encoded.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The metadata lacks something or has something of the wrong type.
    #[error(transparent)]
    Metadata(#[from] GgufError),
    /// The tokenizer is no byte-level BPE.
    #[error("{}: the tokenizer model {model:?} is not supported; supported: gpt2 (byte-level BPE)", path.display())]
    UnsupportedModel {
        /// The GGUF file.
        path: PathBuf,
        /// `tokenizer.ggml.model`.
        model: String,
    },
    /// The way in which text is cut into words is unknown: to guess would give wrong tokens without a sign of it.
    #[error(
        "{}: the pre-tokenizer {name:?} is not supported; supported: {}",
        path.display(), PreTokenizer::names().join(", ")
    )]
    UnsupportedPreTokenizer {
        /// The GGUF file.
        path: PathBuf,
        /// `tokenizer.ggml.pre`.
        name: String,
    },
    /// The vocabulary contradicts itself.
    #[error("{}: unusable vocabulary: {reason}", path.display())]
    Vocabulary {
        /// The GGUF file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The text cannot be cut into words.
    #[error("the text cannot be tokenized: {reason}")]
    Encode {
        /// What the tokenizer says.
        reason: String,
    },
}

impl TokenizerError {
    /// A stable name of the variant for scripts.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Metadata(error) => error.kind(),
            Self::UnsupportedModel { .. } | Self::UnsupportedPreTokenizer { .. } => {
                "unsupported_tokenizer"
            }
            Self::Vocabulary { .. } => "bad_vocabulary",
            Self::Encode { .. } => "encode_failed",
        }
    }

    /// The way out.
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Metadata(error) => error.hint(),
            Self::UnsupportedModel { .. } | Self::UnsupportedPreTokenizer { .. } => Some(
                "choose a model with a supported tokenizer; `hindsight pull --list` shows tested ones"
                    .into(),
            ),
            Self::Vocabulary { .. } => {
                Some("convert the model again, or fetch the file again".into())
            }
            Self::Encode { .. } => None,
        }
    }
}
