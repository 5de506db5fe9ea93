//! English words: those of the `wonderwords` package (MIT, see words/LICENSE), from which RULER draws its own.

use super::super::random::Random;

/// Words by what they are.
#[derive(Debug)]
pub(super) struct Words {
    adjectives: Vec<&'static str>,
    nouns: Vec<&'static str>,
    /// All words, verbs among them, sorted, each once.
    pub(super) all: Vec<&'static str>,
}

impl Words {
    pub(super) fn load() -> Self {
        let adjectives: Vec<_> = include_str!("words/adjectives.txt").lines().collect();
        let nouns: Vec<_> = include_str!("words/nouns.txt").lines().collect();
        let verbs = include_str!("words/verbs.txt").lines();
        let mut all: Vec<_> = adjectives.iter().chain(&nouns).copied().chain(verbs).collect();
        all.sort_unstable();
        all.dedup();
        Self { adjectives, nouns, all }
    }

    /// An adjective and a noun, such as `faint-water`.
    pub(super) fn pair(&self, random: &mut Random) -> String {
        format!("{}-{}", random.choose(&self.adjectives), random.choose(&self.nouns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_lower_case_and_enough_for_long_lists() {
        let words = Words::load();
        assert!(words.all.len() > 7000 && words.adjectives.len() > 800);
        let plain = |word: &str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        assert!(words.all.iter().all(|word| !word.is_empty() && plain(word)));
    }
}
