//! Finding special tokens in a text.

use aho_corasick::{AhoCorasick, MatchKind};

/// A stretch of text between special tokens, or one of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Segment<'a> {
    Text(&'a str),
    Token(u32),
}

/// A set of tokens that are found in the text as they are written, the leftmost and of these the longest first.
#[derive(Debug)]
pub(super) struct SpecialTokens {
    finder: AhoCorasick,
    ids: Vec<u32>,
}

impl SpecialTokens {
    /// Tokens given by text, which must not be empty, and id.
    pub(super) fn new<'a>(
        tokens: impl IntoIterator<Item = (&'a str, u32)>,
    ) -> Result<Self, aho_corasick::BuildError> {
        let (texts, ids): (Vec<&str>, Vec<u32>) = tokens.into_iter().unzip();
        let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts)?;
        Ok(Self { finder, ids })
    }

    /// Cuts `text` at its special tokens; no text segment is empty.
    pub(super) fn segments<'a>(&self, text: &'a str) -> Vec<Segment<'a>> {
        let mut segments = Vec::new();
        let mut done = 0;
        for found in self.finder.find_iter(text) {
            if found.start() > done {
                segments.push(Segment::Text(&text[done..found.start()]));
            }
            segments.push(Segment::Token(self.ids[found.pattern().as_usize()]));
            done = found.end();
        }
        if done < text.len() {
            segments.push(Segment::Text(&text[done..]));
        }
        segments
    }

    /// `text` with `guard` after the first character of each special token, so that none is found any more.
    ///
    /// No token may contain `guard` or consist of one character.
    pub(super) fn shield(&self, text: &str, guard: char) -> String {
        let mut shielded = String::with_capacity(text.len());
        let mut done = 0;
        // Searching on from inside a token finds those that overlap with it too.
        while let Some(found) = self.finder.find(&text[done..]) {
            let start = done + found.start();
            let first = text[start..].chars().next().map_or(0, char::len_utf8);
            shielded.push_str(&text[done..start + first]);
            shielded.push(guard);
            done = start + first;
        }
        shielded.push_str(&text[done..]);
        shielded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> SpecialTokens {
        SpecialTokens::new([("<|end|>", 1), ("<|end|>>", 2), ("ab", 3), ("bc", 4), ("あい", 5)])
            .unwrap()
    }

    #[test]
    fn text_is_cut_at_tokens() {
        use Segment::{Text, Token};
        let tokens = tokens();
        assert_eq!(tokens.segments(""), []);
        assert_eq!(tokens.segments("x<|end|>y"), [Text("x"), Token(1), Text("y")]);
        assert_eq!(tokens.segments("<|end|>>abc"), [Token(2), Token(3), Text("c")]);
        assert_eq!(tokens.segments("<|en<|end|>"), [Text("<|en"), Token(1)]);
    }

    #[test]
    fn a_shielded_text_has_no_token() {
        let tokens = tokens();
        for text in ["plain", "<|end|>", "abc", "ababc<|end|>>", "あいab", "<|<|end|>end|>"] {
            let shielded = tokens.shield(text, '\u{fdd0}');
            assert_eq!(shielded.replace('\u{fdd0}', ""), text);
            assert_eq!(tokens.segments(&shielded), [Segment::Text(&shielded)], "{text}");
        }
        assert_eq!(tokens.shield("plain", '\u{fdd0}'), "plain");
    }
}
