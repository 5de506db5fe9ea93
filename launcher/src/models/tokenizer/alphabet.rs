//! The alphabet of byte-level BPE: each byte is written as one printable character.

use std::collections::HashMap;
use std::sync::LazyLock;

/// Bytes whose character is the one of the same number in Latin-1.
fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// The character of each byte: printable bytes stand for themselves, the others follow from U+0100 in order.
static CHARACTERS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut next = 0x100_u32..;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        if is_printable(byte) {
            char::from(byte)
        } else {
            next.next().and_then(char::from_u32).expect("68 characters from U+0100 are assigned")
        }
    })
});

static BYTES: LazyLock<HashMap<char, u8>> =
    LazyLock::new(|| (0..=255).map(|byte| (character(byte), byte)).collect());

/// The character that stands for `byte`.
pub(super) fn character(byte: u8) -> char {
    CHARACTERS[usize::from(byte)]
}

/// The bytes that `token` stands for, or none if it holds a character outside the alphabet.
pub(super) fn bytes(token: &str) -> Option<Vec<u8>> {
    token.chars().map(|c| BYTES.get(&c).copied()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_alphabet_is_that_of_the_tokenizers() {
        let ours: HashSet<char> = (0..=255).map(character).collect();
        let theirs = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        assert_eq!(ours, theirs.into_iter().collect());
        assert_eq!((character(b' '), character(b'\n'), character(b'a')), ('Ġ', 'Ċ', 'a'));
    }

    #[test]
    fn bytes_are_what_characters_stand_for() {
        assert_eq!(bytes("ĠcafÃ©").unwrap(), " café".as_bytes());
        assert_eq!(bytes("<|x|>\u{3042}"), None);
        for byte in 0..=255 {
            assert_eq!(bytes(&character(byte).to_string()), Some(vec![byte]));
        }
    }
}
