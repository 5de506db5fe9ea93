//! Text from tokens as they come.

use super::Tokenizer;

/// Turns a sequence of tokens into text piece by piece.
///
/// A character may be spread over several tokens: its bytes are held back until it is whole, so every piece is valid
/// UTF-8, and the pieces together are the text of all the tokens. Bytes that can never become a character come as
/// U+FFFD. Control tokens have no text.
#[derive(Debug)]
pub struct TokenStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The beginning of a character, at most three bytes.
    pending: Vec<u8>,
}

impl<'a> TokenStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, pending: Vec::new() }
    }

    /// Takes one token; returns the text that it completes, if any.
    ///
    /// An id beyond the vocabulary (models pad their output to round sizes) has no text.
    pub fn push(&mut self, id: u32) -> Option<String> {
        self.pending.extend_from_slice(self.tokenizer.token_bytes(id));
        let whole = whole_characters(&self.pending);
        let text = String::from_utf8_lossy(&self.pending[..whole]).into_owned();
        self.pending.drain(..whole);
        (!text.is_empty()).then_some(text)
    }

    /// Ends the text: what is left of an unfinished character comes as U+FFFD.
    pub fn finish(self) -> Option<String> {
        (!self.pending.is_empty()).then(|| String::from_utf8_lossy(&self.pending).into_owned())
    }
}

/// The length of `bytes` without the beginning of a character at its end.
fn whole_characters(bytes: &[u8]) -> usize {
    let unfinished = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    let may_go_on = std::str::from_utf8(unfinished).is_err_and(|error| error.error_len().is_none());
    if may_go_on { bytes.len() - unfinished.len() } else { bytes.len() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_a_beginning_at_the_end_is_held_back() {
        let cases: [(&[u8], usize); 8] = [
            (b"", 0),
            (b"ab", 2),
            ("é".as_bytes(), 2),
            (b"a\xc3", 1),
            (b"a\xf0\x9f\x98", 1),
            (b"\xc3a", 2),
            (b"\xff", 1),
            (b"\xf0\x9f\xff\xe2\x82", 3),
        ];
        for (bytes, whole) in cases {
            assert_eq!(whole_characters(bytes), whole, "{bytes:?}");
        }
    }

    proptest! {
        /// Pieces of any bytes, cut anywhere, are together what the whole is.
        #[test]
        fn pieces_join_to_the_whole(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..12)) {
            let (mut pending, mut text) = (Vec::new(), String::new());
            for piece in &pieces {
                pending.extend_from_slice(piece);
                let whole = whole_characters(&pending);
                text.push_str(&String::from_utf8_lossy(&pending[..whole]));
                pending.drain(..whole);
                prop_assert!(pending.len() < 4);
            }
            text.push_str(&String::from_utf8_lossy(&pending));
            prop_assert_eq!(text, String::from_utf8_lossy(&pieces.concat()).into_owned());
        }
    }
}
