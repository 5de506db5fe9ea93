//! Real text to read, as long as a measurement wants it.

use std::path::Path;

use crate::command::run::prompt::read_file;
use crate::error::{Error, Exit};
use crate::eval::ruler::BOOK;
use crate::models::{Specials, Tokenizer};

/// The tokens of a text, begun anew where it ends.
#[derive(Debug)]
pub(super) struct DepthText {
    tokens: Vec<u32>,
}

impl DepthText {
    /// The text of a file, or else the first chapters of Alice's Adventures in Wonderland.
    pub(super) fn read(file: Option<&Path>, tokenizer: &Tokenizer) -> Result<Self, Error> {
        let text = file.map(read_file).transpose()?;
        let tokens = tokenizer.encode(text.as_deref().unwrap_or(BOOK), Specials::Text)?;
        if tokens.is_empty() {
            return Err(Error::new(Exit::Prompt, "text_empty", "the text holds no tokens"));
        }
        Ok(Self { tokens })
    }

    /// `length` tokens from `start` on.
    pub(super) fn part(&self, start: usize, length: usize) -> Vec<u32> {
        self.tokens.iter().copied().cycle().skip(start % self.tokens.len()).take(length).collect()
    }
}
