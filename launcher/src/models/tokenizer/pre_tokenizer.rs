//! How text is cut into words before the merges of BPE, by the name that a GGUF file gives to it.
//!
//! A GGUF file carries no rule, only a name for one (`tokenizer.ggml.pre`). Wrong cuts give tokens that the model has
//! never seen in such an order and show only as worse answers, so a name that is not known here is an error.

use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper};

/// A known way to cut text into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreTokenizer {
    /// GPT-2's own.
    Gpt2,
    /// What llama.cpp does for the name `default`: GPT-2's after punctuation, then digits by three.
    Default,
    /// SmolLM: single digits, then as GPT-2.
    SmolLm,
    /// Llama 3: contractions in any case, digits up to three, line breaks of their own.
    Llama3,
    /// Qwen2: as Llama 3 with single digits, over the composed normal form (NFC).
    Qwen2,
}

use PreTokenizer::{Default, Gpt2, Llama3, Qwen2, SmolLm};

/// Names in GGUF files; those of one rule stand together.
const NAMES: [(&str, PreTokenizer); 9] = [
    ("gpt-2", Gpt2),
    ("gpt2", Gpt2),
    ("default", Default),
    ("smollm", SmolLm),
    ("llama-bpe", Llama3),
    ("llama3", Llama3),
    ("llama-v3", Llama3),
    ("qwen2", Qwen2),
    ("deepseek-r1-qwen", Qwen2),
];

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Punctuation as llama.cpp's `default` sees it, digits, and digits by three.
const DEFAULT: [&str; 4] = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"];

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl PreTokenizer {
    /// The rule that a GGUF file calls `name`.
    pub fn by_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, rule)| *rule)
    }

    /// Every name that [`PreTokenizer::by_name`] knows.
    pub fn names() -> Vec<&'static str> {
        NAMES.iter().map(|(name, _)| *name).collect()
    }

    /// Whether a word that is in the vocabulary as a whole becomes that token without merges.
    pub(super) fn ignores_merges(self) -> bool {
        self == Llama3
    }

    /// Whether a prompt begins with BOS where the file does not say.
    pub(super) fn adds_bos(self) -> bool {
        self == Llama3
    }

    /// What is done to the text before it is cut.
    pub(super) fn normalizer(self) -> Option<NormalizerWrapper> {
        (self == Qwen2).then(|| NFC.into())
    }

    /// The cuts, and the step to the alphabet of bytes.
    pub(super) fn build(self) -> tokenizers::Result<PreTokenizerWrapper> {
        let alphabet = ByteLevel::new(false, false, false);
        let steps: Vec<PreTokenizerWrapper> = match self {
            Gpt2 => vec![split(GPT2)?, alphabet.into()],
            SmolLm => vec![Digits::new(true).into(), split(GPT2)?, alphabet.into()],
            Llama3 => vec![split(LLAMA3)?, alphabet.into()],
            Qwen2 => vec![split(QWEN2)?, alphabet.into()],
            Default => DEFAULT
                .into_iter()
                .map(split)
                .chain([Ok(alphabet.into())])
                .collect::<tokenizers::Result<_>>()?,
        };
        Ok(Sequence::new(steps).into())
    }
}

/// Matches of `regex`, and what lies between them, become words.
fn split(regex: &str) -> tokenizers::Result<PreTokenizerWrapper> {
    let pattern = SplitPattern::Regex(regex.to_owned());
    Ok(Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into())
}

#[cfg(test)]
mod tests {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

    use super::super::alphabet;
    use super::*;

    fn words(rule: PreTokenizer, text: &str) -> Vec<String> {
        let mut text = PreTokenizedString::from(text);
        rule.build().unwrap().pre_tokenize(&mut text).unwrap();
        text.get_splits(OffsetReferential::Original, OffsetType::Byte)
            .into_iter()
            .map(|(word, ..)| String::from_utf8(alphabet::bytes(word).unwrap()).unwrap())
            .collect()
    }

    const SAMPLE: &str = "We'LL pay $1234.50, it's\r\n\r\n  Größe 7\u{b2}!?\n\tx  ";

    #[test]
    fn gpt2_keeps_a_space_with_the_word_and_digits_together() {
        assert_eq!(
            words(Gpt2, SAMPLE),
            [
                "We",
                "'",
                "LL",
                " pay",
                " $",
                "1234",
                ".",
                "50",
                ",",
                " it",
                "'s",
                "\r\n\r\n ",
                " Größe",
                " 7\u{b2}",
                "!?",
                "\n",
                "\t",
                "x",
                "  ",
            ]
        );
    }

    #[test]
    fn smollm_cuts_digits_first() {
        assert_eq!(
            words(SmolLm, SAMPLE),
            [
                "We",
                "'",
                "LL",
                " pay",
                " $",
                "1",
                "2",
                "3",
                "4",
                ".",
                "5",
                "0",
                ",",
                " it",
                "'s",
                "\r\n\r\n ",
                " Größe",
                " ",
                "7",
                "\u{b2}",
                "!?",
                "\n",
                "\t",
                "x",
                "  ",
            ]
        );
    }

    #[test]
    fn llama3_takes_contractions_in_any_case_and_three_digits() {
        assert_eq!(
            words(Llama3, SAMPLE),
            [
                "We", "'LL", " pay", " $", "123", "4", ".", "50", ",", " it", "'s", "\r\n\r\n",
                " ", " Größe", " ", "7\u{b2}", "!?\n", "\tx", "  ",
            ]
        );
    }

    #[test]
    fn qwen2_differs_from_llama3_in_digits() {
        assert_eq!(
            words(Qwen2, SAMPLE),
            [
                "We", "'LL", " pay", " $", "1", "2", "3", "4", ".", "5", "0", ",", " it", "'s",
                "\r\n\r\n", " ", " Größe", " ", "7", "\u{b2}", "!?\n", "\tx", "  ",
            ]
        );
    }

    #[test]
    fn default_cuts_punctuation_first_and_digits_by_three() {
        assert_eq!(
            words(Default, SAMPLE),
            [
                "We",
                "'",
                "LL",
                " pay",
                " ",
                "$",
                "123",
                "4",
                ".",
                "50",
                ",",
                " it",
                "'",
                "s",
                "\r\n\r\n ",
                " Größe",
                " ",
                "7\u{b2}",
                "!?",
                "\n",
                "\t",
                "x",
                "  ",
            ]
        );
    }

    #[test]
    fn every_rule_loses_nothing() {
        for (name, rule) in NAMES {
            assert_eq!(words(rule, SAMPLE).concat(), SAMPLE, "{name}");
        }
    }

    #[test]
    fn unknown_names_are_not_guessed() {
        for name in ["", "qwen", "Qwen2", "smaug-bpe", "tekken"] {
            assert_eq!(PreTokenizer::by_name(name), None, "{name}");
        }
    }
}
