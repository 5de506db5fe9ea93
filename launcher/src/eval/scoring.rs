//! Scores as RULER gives them: a reference counts when it occurs anywhere in the answer, letter case ignored.

use serde::{Deserialize, Serialize};

/// What an answer with some of its references is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scoring {
    /// The share of the references that occur.
    All,
    /// Everything if any reference occurs.
    Part,
}

impl Scoring {
    /// The score of an answer, from 0 to 1. An answer that nothing is asked of scores 0.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "references are few")]
    pub fn score(self, answer: &str, references: &[String]) -> f64 {
        let answer = tidy(answer).to_lowercase();
        let found = references
            .iter()
            .filter(|reference| answer.contains(&reference.to_lowercase()))
            .count();
        match self {
            Self::All => found as f64 / references.len().max(1) as f64,
            Self::Part => f64::from(u8::from(found > 0)),
        }
    }
}

/// An answer without blanks around it, its control characters turned into line breaks.
#[must_use]
pub fn tidy(answer: &str) -> String {
    let plain: String = answer.trim().chars().map(|c| if c < ' ' { '\n' } else { c }).collect();
    plain.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(scoring: Scoring, answer: &str, references: &[&str]) -> f64 {
        let references: Vec<String> = references.iter().map(|&text| text.to_owned()).collect();
        scoring.score(answer, &references)
    }

    /// Answers, references, and the share of them that the evaluator of RULER's published predictions finds.
    const SHARES: [(&str, &[&str], f64); 9] = [
        ("7374122.", &["7374122"], 1.0),
        (" 737 4122", &["7374122"], 0.0),
        ("7067228, 5107245 and 1", &["5107245", "7067228", "9999999", "1"], 0.75),
        ("WFRKH bujnr\tVIAWG", &["WFRKH", "BUJNR", "VIAWG", "PZAPI", "ULZDX"], 0.6),
        ("1. Jeweller 2. SHARES", &["jeweller", "share"], 1.0),
        ("a\u{1}b", &["a\nb"], 1.0),
        ("\u{1c} \n", &["x"], 0.0),
        ("ÉCOLE", &["école"], 1.0),
        ("", &["x", "y"], 0.0),
    ];

    #[test]
    fn all_counts_the_share_of_references_found() {
        for (answer, references, expected) in SHARES {
            let found = score(Scoring::All, answer, references);
            assert!((found - expected).abs() < 1e-12, "{answer:?}: {found}");
        }
    }

    #[test]
    fn part_counts_any_reference() {
        for (answer, references, share) in SHARES {
            let expected = f64::from(u8::from(share > 0.0));
            assert!((score(Scoring::Part, answer, references) - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn control_characters_become_line_breaks() {
        assert_eq!(tidy(" \u{0}a\tb\u{1f}c \r\n"), "a\nb\nc");
    }
}
