//! All that can go wrong with models, in one type for the command line.

use std::borrow::Cow;

use super::GgufError;
use super::home::NoHome;
use super::pull::PullError;
use super::registry::ResolveError;
use super::template::TemplateError;
use super::tokenizer::TokenizerError;

/// A model cannot be found, fetched, opened or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no place for models.
    #[error(transparent)]
    NoHome(#[from] NoHome),
    /// `--model` names nothing.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The download failed.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// The file is no sound GGUF.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The tokenizer cannot be built or used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template is missing or fails.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

impl Error {
    /// A stable name of the innermost variant for scripts, in snake case.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoHome(_) => "no_home",
            Self::Resolve(error) => error.kind(),
            Self::Pull(error) => error.kind(),
            Self::Gguf(error) => error.kind(),
            Self::Tokenizer(error) => error.kind(),
            Self::Template(error) => error.kind(),
        }
    }

    /// The way out, if there is one to name.
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::NoHome(_) => Some("set HINDSIGHT_HOME to a directory for models".into()),
            Self::Resolve(error) => error.hint(),
            Self::Pull(error) => error.hint(),
            Self::Gguf(error) => error.hint(),
            Self::Tokenizer(error) => error.hint(),
            Self::Template(error) => error.hint(),
        }
    }
}
