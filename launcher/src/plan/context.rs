//! How many tokens a run may hold.

use std::fmt::Display;

use crate::error::{Error, Exit};

/// The context that a model was trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainedContext {
    /// Its tokens.
    pub tokens: usize,
    /// Whether the user allows more (`--allow-beyond-trained`).
    pub beyond: bool,
}

impl TrainedContext {
    /// The most tokens that are allowed.
    #[must_use]
    pub const fn most(self) -> usize {
        if self.beyond { usize::MAX } else { self.tokens }
    }

    /// Checks that as many `tokens` are allowed as `what` asks for.
    ///
    /// # Errors
    /// They are not; the message begins with `what`.
    pub fn check(self, what: impl Display, tokens: usize) -> Result<(), Error> {
        if tokens <= self.most() {
            return Ok(());
        }
        let trained = self.tokens;
        let message =
            format!("{what} is beyond the {trained} tokens that the model was trained on");
        Err(Error::new(Exit::DoesNotFit, "context_beyond_trained", message).with_hint(format!(
            "ask for at most {trained}, or add --allow-beyond-trained and expect worse text"
        )))
    }
}

/// What the user asked for, and what it is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextRequest {
    /// `--context`, if given.
    pub asked: Option<usize>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// `--max-tokens`.
    pub max_tokens: usize,
    /// What the model was trained on.
    pub trained: TrainedContext,
}

/// The tokens that a run may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// Prompt and text together hold at most this many tokens.
    pub tokens: usize,
}

impl ContextRequest {
    /// Decides the context: what was asked for, or else just what prompt and text need.
    ///
    /// # Errors
    /// The prompt is empty or does not fit, or the context is longer than the model was trained on.
    pub fn decide(self) -> Result<Context, Error> {
        let Self { asked, prompt_tokens, max_tokens, trained } = self;
        if prompt_tokens == 0 {
            let error = Error::new(Exit::Prompt, "empty_prompt", "the prompt is empty");
            return Err(
                error.with_hint("give one with --prompt, --prompt-file, or on standard input")
            );
        }
        let limit = trained.most();
        if let Some(asked) = asked {
            trained.check(format_args!("--context {asked}"), asked)?;
        }
        let needed = prompt_tokens.saturating_add(max_tokens);
        let tokens = asked.unwrap_or_else(|| needed.min(limit));
        // A context that the prompt fills to the last token leaves no room to answer.
        if prompt_tokens >= tokens {
            let source = if asked.is_some() { "--context" } else { "the model's context" };
            let message = format!(
                "the prompt has {prompt_tokens} tokens, but {source} holds {tokens}, one of them for the answer"
            );
            let error = Error::new(Exit::Prompt, "prompt_too_long", message);
            let way_out = if tokens < limit {
                format!("ask for more with --context {}", needed.min(limit))
            } else {
                "shorten the prompt, choose a model with a longer context, or add \
                 --allow-beyond-trained and expect worse text"
                    .to_owned()
            };
            return Err(error.with_hint(way_out));
        }
        Ok(Context { tokens })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: ContextRequest = ContextRequest {
        asked: None,
        prompt_tokens: 7000,
        max_tokens: 256,
        trained: TrainedContext { tokens: 8192, beyond: false },
    };

    fn kind(request: ContextRequest) -> String {
        request.decide().unwrap_err().kind.into_owned()
    }

    #[test]
    fn without_a_wish_the_context_is_what_prompt_and_text_need() {
        assert_eq!(REQUEST.decide().unwrap().tokens, 7256);
        let long = ContextRequest { max_tokens: 10_000, ..REQUEST };
        assert_eq!(long.decide().unwrap().tokens, 8192);
    }

    #[test]
    fn an_empty_prompt_is_refused() {
        assert_eq!(kind(ContextRequest { prompt_tokens: 0, ..REQUEST }), "empty_prompt");
    }

    #[test]
    fn a_prompt_that_leaves_no_room_to_answer_is_refused() {
        let full = ContextRequest { prompt_tokens: 8192, ..REQUEST };
        assert_eq!(kind(full), "prompt_too_long");
        let small = ContextRequest { asked: Some(7000), ..REQUEST };
        let error = small.decide().unwrap_err();
        assert_eq!(error.kind, "prompt_too_long");
        assert_eq!(error.hint.unwrap(), "ask for more with --context 7256");
    }

    #[test]
    fn beyond_what_the_model_was_trained_on_only_on_request() {
        let beyond = ContextRequest { asked: Some(32_768), ..REQUEST };
        assert_eq!(kind(beyond), "context_beyond_trained");
        let trained = TrainedContext { beyond: true, ..beyond.trained };
        let allowed = ContextRequest { trained, ..beyond };
        assert_eq!(allowed.decide().unwrap().tokens, 32_768);
    }
}
