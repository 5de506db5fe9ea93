//! Why messages do not become a prompt.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

use super::super::GgufError;
use super::functions;

/// A chat template is missing, wrong, or refuses its input.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The model comes without a template: probably a base model, not made for chats.
    #[error("{}: the model has no chat template", path.display())]
    Missing {
        /// The GGUF file.
        path: PathBuf,
    },
    /// The template file cannot be read as UTF-8 text.
    #[error("cannot read the chat template {}: {source}", path.display())]
    Unreadable {
        /// The template file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The template is no valid Jinja.
    #[error("the chat template is malformed{}: {reason}", at_line(*line))]
    Syntax {
        /// Line in the template, from 1.
        line: Option<usize>,
        /// What the compiler says.
        reason: String,
    },
    /// The template itself refuses the messages.
    #[error("the chat template refuses these messages{}: {reason}", at_line(*line))]
    Refused {
        /// Line in the template, from 1.
        line: Option<usize>,
        /// The text of its exception.
        reason: String,
    },
    /// The template fails on the messages.
    #[error("the chat template failed{}: {reason}", at_line(*line))]
    Render {
        /// Line in the template, from 1.
        line: Option<usize>,
        /// What the engine says.
        reason: String,
    },
    /// The metadata of the file has something of the wrong type.
    #[error(transparent)]
    Metadata(#[from] GgufError),
}

impl TemplateError {
    pub(super) fn from_render(error: &minijinja::Error) -> Self {
        let line = error.line();
        match functions::raised(error) {
            Some(reason) => Self::Refused { line, reason: reason.to_owned() },
            None => Self::Render { line, reason: describe(error) },
        }
    }

    /// A stable name of the variant for scripts.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "no_chat_template",
            Self::Unreadable { .. } => "template_unreadable",
            Self::Syntax { .. } => "template_syntax",
            Self::Refused { .. } => "template_refused",
            Self::Render { .. } => "template_failed",
            Self::Metadata(error) => error.kind(),
        }
    }

    /// The way out.
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        let hint = match self {
            Self::Missing { .. } | Self::Syntax { .. } | Self::Render { .. } => {
                "use --raw for the prompt as it is, or give a template: --chat-template FILE"
            }
            Self::Unreadable { .. } => "give a text file in UTF-8: --chat-template FILE",
            Self::Refused { .. } => {
                "some models take no system message: leave out --system, or use --raw"
            }
            Self::Metadata(error) => return error.hint(),
        };
        Some(hint.into())
    }
}

/// The engine's words without the place, which is told apart.
pub(super) fn describe(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

fn at_line(line: Option<usize>) -> String {
    line.map(|line| format!(" (line {line})")).unwrap_or_default()
}
