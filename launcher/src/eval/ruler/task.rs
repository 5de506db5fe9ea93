//! The tasks by name.

use std::fmt;

use super::Materials;
use crate::eval::scoring::Scoring;

/// One of RULER's tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Task {
    /// A word's number, hidden in one sentence repeated.
    NiahSingle1,
    /// A word's number, hidden in a text.
    NiahSingle2,
    /// A word's UUID, hidden in a text.
    NiahSingle3,
    /// The number of one of four words, hidden in a text.
    NiahMultikey1,
    /// The number of one word among nothing but numbers of words.
    NiahMultikey2,
    /// The UUID of one UUID among nothing but UUIDs of UUIDs.
    NiahMultikey3,
    /// Four numbers of one word.
    NiahMultivalue,
    /// The numbers of four words.
    NiahMultiquery,
    /// The variables that were assigned the same value, one from another.
    Vt,
    /// The ten words that a list repeats most.
    Cwe,
    /// The three most frequent words of a coded text.
    Fwe,
    /// Questions about paragraphs (SQuAD).
    Qa1,
    /// Questions about several paragraphs together (HotpotQA).
    Qa2,
}

impl Task {
    /// All of them, in RULER's order.
    pub const ALL: [Self; 13] = [
        Self::NiahSingle1,
        Self::NiahSingle2,
        Self::NiahSingle3,
        Self::NiahMultikey1,
        Self::NiahMultikey2,
        Self::NiahMultikey3,
        Self::NiahMultivalue,
        Self::NiahMultiquery,
        Self::Vt,
        Self::Cwe,
        Self::Fwe,
        Self::Qa1,
        Self::Qa2,
    ];

    /// RULER's name of the task.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NiahSingle1 => "niah_single_1",
            Self::NiahSingle2 => "niah_single_2",
            Self::NiahSingle3 => "niah_single_3",
            Self::NiahMultikey1 => "niah_multikey_1",
            Self::NiahMultikey2 => "niah_multikey_2",
            Self::NiahMultikey3 => "niah_multikey_3",
            Self::NiahMultivalue => "niah_multivalue",
            Self::NiahMultiquery => "niah_multiquery",
            Self::Vt => "vt",
            Self::Cwe => "cwe",
            Self::Fwe => "fwe",
            Self::Qa1 => "qa_1",
            Self::Qa2 => "qa_2",
        }
    }

    /// The task of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|task| task.name() == name)
    }

    /// Tokens that an answer may have.
    #[must_use]
    pub const fn answer_tokens(self) -> u32 {
        match self {
            Self::Vt => 30,
            Self::Cwe => 120,
            Self::Fwe => 50,
            Self::Qa1 | Self::Qa2 => 32,
            _ => 128,
        }
    }

    /// What finding some of the references is worth.
    #[must_use]
    pub const fn scoring(self) -> Scoring {
        match self {
            Self::Qa1 | Self::Qa2 => Scoring::Part,
            _ => Scoring::All,
        }
    }

    /// Whether its prompts are made of documents that the user names.
    #[must_use]
    pub const fn needs_documents(self) -> bool {
        matches!(self, Self::Qa1 | Self::Qa2)
    }

    /// Size of its smallest prompt, in its own unit.
    pub(super) const fn smallest(self) -> usize {
        match self {
            // One more word than are common.
            Self::Cwe => super::cwe::COMMON + 1,
            // All of fwe's answers occur, and differently often.
            Self::Fwe => 40,
            // Room for each variable at a place of its own.
            Self::Vt => super::vt::VARIABLES,
            // The documents that hold the answer are there whatever the size.
            Self::Qa1 | Self::Qa2 => 1,
            // Room for each needle at a place of its own.
            _ => 4,
        }
    }

    /// Size of its largest prompt.
    pub(super) fn largest(self, materials: &Materials) -> usize {
        match self {
            Self::Cwe => materials.words.all.len(),
            Self::Qa1 | Self::Qa2 => {
                materials.documents(self).map_or(1, |documents| documents.count())
            }
            _ => usize::MAX / 2,
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_tasks() {
        for task in Task::ALL {
            assert_eq!(Task::by_name(task.name()), Some(task));
        }
        assert_eq!(Task::by_name("niah"), None);
    }
}
