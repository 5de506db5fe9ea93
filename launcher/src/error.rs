//! One error type for the whole command line: what happened, the way out, and the exit code.

use std::borrow::Cow;
use std::fmt::Display;
use std::process::ExitCode;

use serde::Serialize;

/// How a command ends. The numbers are part of the interface and do not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Success = 0,
    /// Something failed that should not have.
    Internal = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The model file is missing, damaged or not supported.
    Model = 3,
    /// The model could not be fetched.
    Download = 4,
    /// The prompt is missing, empty, not text, or longer than the context.
    Prompt = 5,
    /// The context or the memory that was asked for cannot be had.
    DoesNotFit = 6,
    /// A core that was asked for cannot be had.
    Placement = 7,
    /// The gpu-worker failed or died.
    Worker = 8,
    /// The cpu-indexer failed or died.
    Indexer = 9,
    /// `hindsight doctor` found what makes runs slower than they could be.
    Slower = 10,
    /// `hindsight doctor` found what makes runs fail.
    Broken = 11,
    /// The device that was asked for cannot be used.
    Device = 12,
    /// The user interrupted the run.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failed command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// How the process ends.
    pub exit: Exit,
    /// What kind of error, in snake_case, for scripts.
    pub kind: Cow<'static, str>,
    /// What happened, naming the input.
    pub message: String,
    /// The way out, if one is known.
    pub hint: Option<String>,
}

impl Error {
    /// An error without a known way out.
    pub fn new(exit: Exit, kind: impl Into<Cow<'static, str>>, message: impl Display) -> Self {
        Self { exit, kind: kind.into(), message: message.to_string(), hint: None }
    }

    /// Adds the way out.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// An error that no user can have caused.
    pub fn internal(error: impl Display) -> Self {
        Self::new(Exit::Internal, "internal", error)
    }

    /// Writes the error to standard error, as JSON or for people.
    #[expect(clippy::print_stderr, reason = "this is where errors reach the user")]
    pub fn print(&self, json: bool) {
        if json {
            eprintln!("{}", self.to_json());
        } else {
            eprintln!("error: {}", self.message);
            if let Some(hint) = &self.hint {
                eprintln!("  hint: {hint}");
            }
        }
    }

    fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Body<'e> {
            kind: &'e str,
            message: &'e str,
            hint: Option<&'e str>,
        }
        let Self { kind, message, hint, .. } = self;
        let body = Body { kind, message, hint: hint.as_deref() };
        serde_json::json!({ "error": body }).to_string()
    }
}

impl<E: Into<crate::models::Error>> From<E> for Error {
    fn from(error: E) -> Self {
        use crate::models::Error as Models;
        let error = error.into();
        let exit = match error {
            Models::NoHome(_) | Models::Pull(_) => Exit::Download,
            Models::Resolve(_) | Models::Gguf(_) | Models::Tokenizer(_) | Models::Template(_) => {
                Exit::Model
            }
        };
        let hint = error.hint().map(Cow::into_owned);
        Self { hint, ..Self::new(exit, error.kind(), error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_names_kind_message_and_hint() {
        let error = Error::new(Exit::Prompt, "empty_prompt", "the prompt is empty");
        let json = error.with_hint("type something").to_json();
        assert_eq!(
            json,
            r#"{"error":{"hint":"type something","kind":"empty_prompt","message":"the prompt is empty"}}"#
        );
    }
}
