//! Text to hide needles in.

/// What ships with the project: the beginning of a book in the public domain.
pub const BOOK: &str = include_str!("../../../../examples/alice.txt");

/// A text as words, begun anew where it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Haystack {
    words: Vec<String>,
}

impl Default for Haystack {
    /// The first chapters of Alice's Adventures in Wonderland, without the notes in brackets that somebody has pencilled
    /// in: they are needles themselves.
    fn default() -> Self {
        let printed: Vec<&str> = BOOK.lines().filter(|line| !line.starts_with('[')).collect();
        Self::new(&printed.join("\n")).expect("the book has words")
    }
}

impl Haystack {
    /// A haystack of the words of `text`; none if it has no words.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        (!words.is_empty()).then_some(Self { words })
    }

    /// The sentences of the first `count` words. The last one may end in its middle.
    pub(super) fn sentences(&self, count: usize) -> Vec<String> {
        let mut sentences: Vec<String> = Vec::new();
        let mut open = false;
        for word in self.words.iter().cycle().take(count) {
            match sentences.last_mut() {
                Some(sentence) if open => {
                    sentence.push(' ');
                    sentence.push_str(word);
                }
                _ => sentences.push(word.clone()),
            }
            open = !ends_sentence(word);
        }
        sentences
    }
}

/// Whether a word ends with a full stop, question or exclamation mark, which quotes and brackets may follow.
fn ends_sentence(word: &str) -> bool {
    word.trim_end_matches(['"', '\'', ')', ']', '”', '’', '_']).ends_with(['.', '!', '?'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_told_apart_and_the_text_begins_anew() {
        let haystack = Haystack::new("It rained.\n`Why?'  she\tasked. And").unwrap();
        assert_eq!(haystack.sentences(4), ["It rained.", "`Why?'", "she"]);
        assert_eq!(haystack.sentences(8)[3..], ["And It rained."]);
        assert!(haystack.sentences(0).is_empty());
    }

    #[test]
    fn the_book_holds_no_number_that_could_be_taken_for_an_answer() {
        let book = Haystack::default();
        assert!(book.words.len() > 4900);
        assert!(book.words.iter().all(|word| !word.contains(|c: char| c.is_ascii_digit())));
    }

    #[test]
    fn a_text_without_words_is_none() {
        assert_eq!(Haystack::new(" \n"), None);
    }
}
