//! One prompt with what a right answer contains.

use super::scoring::Scoring;

/// Which prompt it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// File that its results go to, relative to the folder of results.
    pub file: String,
    /// Name of the task.
    pub task: String,
    /// Tokens that prompt and answer may have together, as the task states it; the group of its row in tables.
    pub length: usize,
    /// Its number within the file.
    pub index: u64,
}

/// One prompt, ready for the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Which one it is.
    pub key: Key,
    /// The prompt as text, template included.
    pub input: String,
    /// The prompt's tokens.
    pub tokens: Vec<u32>,
    /// What a right answer contains.
    pub outputs: Vec<String>,
    /// Tokens that the answer may have.
    pub max_new_tokens: u32,
    /// What finding some of the outputs is worth.
    pub scoring: Scoring,
}
