//! A prompt before the model's template, and what prompts are made of.

use super::words::Words;
use super::{Documents, Haystack, Task};

/// A prompt before the model's template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// What the user says.
    pub text: String,
    /// How the answer begins; put after the template's beginning of the answer.
    pub answer_prefix: String,
    /// What a right answer contains.
    pub outputs: Vec<String>,
}

/// What prompts are made of.
#[derive(Debug)]
pub struct Materials {
    /// Decides every random choice.
    pub seed: u64,
    /// Text that needles are hidden in.
    pub haystack: Haystack,
    /// Questions of qa_1, with the documents that they are about.
    pub squad: Option<Documents>,
    /// Questions of qa_2.
    pub hotpot: Option<Documents>,
    pub(super) words: Words,
}

impl Materials {
    /// Materials without documents.
    #[must_use]
    pub fn new(seed: u64, haystack: Haystack) -> Self {
        Self { seed, haystack, squad: None, hotpot: None, words: Words::load() }
    }

    /// The documents of a task, if it has any and they were given.
    #[must_use]
    pub const fn documents(&self, task: Task) -> Option<&Documents> {
        match task {
            Task::Qa1 => self.squad.as_ref(),
            Task::Qa2 => self.hotpot.as_ref(),
            _ => None,
        }
    }
}
