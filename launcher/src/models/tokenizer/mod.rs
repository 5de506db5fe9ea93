//! Text to tokens and back, by the vocabulary and the rules inside a GGUF file.
//!
//! Byte-level BPE only. **Special tokens** (such as `<|im_end|>`, which ends a turn) are found in a text only where
//! the caller asks for it: [`Specials::Text`] takes a text as nothing but text, whatever is written in it. A chat goes
//! through [`encode_chat`](super::encode_chat), which finds the special tokens of the template and none in what the
//! user wrote.

mod alphabet;
mod error;
mod pre_tokenizer;
mod special;
mod stream;
mod vocabulary;

pub use error::TokenizerError;
pub use pre_tokenizer::PreTokenizer;
pub use stream::TokenStream;

use super::GgufFile;
use special::{Segment, SpecialTokens};
use vocabulary::{CONTROL, USER_DEFINED, Vocabulary};

/// Control tokens by which models end a turn, for files whose metadata names just one of several.
const END_NAMES: [&str; 10] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|end|>",
    "<end_of_turn>",
    "<EOT>",
    "<｜end▁of▁sentence｜>",
    "</s>",
];

/// The longest run of white space that is encoded.
const MAX_WHITESPACE_BYTES: usize = 1 << 19;

/// What the written form of a control token in a text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Specials {
    /// The characters, like any others. For what users write.
    Text,
    /// The control token. For rendered templates and for those who know what they do.
    Parse,
}

/// The tokenizer of one model.
#[derive(Debug)]
pub struct Tokenizer {
    bpe: tokenizers::Tokenizer,
    /// Tokens found with [`Specials::Text`]: user-defined ones.
    user_defined: SpecialTokens,
    /// Tokens found with [`Specials::Parse`]: user-defined and control.
    all_special: SpecialTokens,
    /// Control tokens only.
    control: SpecialTokens,
    /// The bytes of all tokens, one after the other.
    bytes: Vec<u8>,
    /// Where the bytes of each token end.
    ends: Vec<usize>,
    /// The vocabulary as written in the file.
    tokens: Vec<String>,
    adds_bos: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    stops: Vec<u32>,
}

impl Tokenizer {
    /// Builds the tokenizer of a GGUF file.
    ///
    /// # Errors
    /// [`TokenizerError`] if the file has none, one of an unsupported kind, or a vocabulary that contradicts itself.
    pub fn from_gguf(gguf: &GgufFile) -> Result<Self, TokenizerError> {
        let model = gguf.required("tokenizer.ggml.model", GgufFile::string)?;
        if model != "gpt2" {
            let (path, model) = (gguf.path().to_owned(), model.to_owned());
            return Err(TokenizerError::UnsupportedModel { path, model });
        }
        let pre = gguf.required("tokenizer.ggml.pre", GgufFile::string)?;
        let rule = PreTokenizer::by_name(pre).ok_or_else(|| {
            let (path, name) = (gguf.path().to_owned(), pre.to_owned());
            TokenizerError::UnsupportedPreTokenizer { path, name }
        })?;
        let vocabulary = Vocabulary::read(gguf)?;
        let bpe = vocabulary.bpe(rule)?;
        Self::assemble(gguf, rule, &vocabulary, bpe)
    }

    fn assemble(
        gguf: &GgufFile,
        rule: PreTokenizer,
        vocabulary: &Vocabulary<'_>,
        bpe: tokenizers::Tokenizer,
    ) -> Result<Self, TokenizerError> {
        let find = |kinds: &[u32]| {
            SpecialTokens::new(vocabulary.special(kinds)).map_err(|e| vocabulary.bad(e.to_string()))
        };
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(vocabulary.tokens.len());
        for id in 0..vocabulary.tokens.len() {
            bytes.extend(vocabulary.bytes(id));
            ends.push(bytes.len());
        }
        let id = |key: &str| -> Result<Option<u32>, TokenizerError> {
            let id = gguf.u32(key)?;
            Ok(id.filter(|id| (*id as usize) < vocabulary.tokens.len()))
        };
        let bos = id("tokenizer.ggml.bos_token_id")?;
        let eos = id("tokenizer.ggml.eos_token_id")?;
        let named = [eos, id("tokenizer.ggml.eot_token_id")?, id("tokenizer.ggml.eom_token_id")?];
        let known = vocabulary.special(&[CONTROL]).filter(|(text, _)| END_NAMES.contains(text));
        let mut stops: Vec<u32> =
            named.into_iter().flatten().chain(known.map(|(_, id)| id)).collect();
        stops.sort_unstable();
        stops.dedup();
        Ok(Self {
            bpe,
            user_defined: find(&[USER_DEFINED])?,
            all_special: find(&[CONTROL, USER_DEFINED])?,
            control: find(&[CONTROL])?,
            bytes,
            ends,
            tokens: vocabulary.tokens.iter().map(|token| (*token).to_owned()).collect(),
            adds_bos: gguf.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(rule.adds_bos()),
            bos,
            eos,
            stops,
        })
    }

    /// The number of tokens in the vocabulary.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether the vocabulary is empty.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The token that begins a text, if the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text, if the model has one.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The tokens after which a model has no more to say, in ascending order: those that the file names as end of
    /// sequence, turn or message, and control tokens known for it.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stops
    }

    /// A token as the vocabulary writes it; none beyond the vocabulary.
    pub fn token(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).map(String::as_str)
    }

    /// The bytes of text that a token stands for: none for control tokens and ids beyond the vocabulary.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else {
            return &[];
        };
        let start = id.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..end]
    }

    /// The tokens of `text`, without BOS.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] if the text cannot be cut into words.
    pub fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>, TokenizerError> {
        let tokens = match specials {
            Specials::Text => &self.user_defined,
            Specials::Parse => &self.all_special,
        };
        self.encode_segments(tokens.segments(text), None)
    }

    /// The tokens of a text in which [`Tokenizer::shield`] has put `guard`, which is left out again.
    pub(super) fn encode_shielded(
        &self,
        text: &str,
        guard: char,
    ) -> Result<Vec<u32>, TokenizerError> {
        self.encode_segments(self.all_special.segments(text), Some(guard))
    }

    /// `text` changed by `guard` so that no control token is found in it.
    pub(super) fn shield(&self, text: &str, guard: char) -> String {
        self.control.shield(text, guard)
    }

    fn encode_segments(
        &self,
        segments: Vec<Segment<'_>>,
        guard: Option<char>,
    ) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        for segment in segments {
            match (segment, guard) {
                (Segment::Token(id), _) => ids.push(id),
                (Segment::Text(text), Some(guard)) if text.contains(guard) => {
                    self.encode_plain(&text.replace(guard, ""), &mut ids)?;
                }
                (Segment::Text(text), _) => self.encode_plain(text, &mut ids)?,
            }
        }
        Ok(ids)
    }

    fn encode_plain(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        check_whitespace(text)?;
        let encoding = self
            .bpe
            .encode_fast(text, false)
            .map_err(|e| TokenizerError::Encode { reason: e.to_string() })?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }

    /// Puts BOS in front if the model wants it and it is not there yet.
    pub fn add_bos(&self, ids: &mut Vec<u32>) {
        if let Some(bos) = self.bos.filter(|bos| self.adds_bos && ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
    }

    /// The text of `ids`; bytes that are no UTF-8 come as U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| self.token_bytes(*id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A decoder for tokens that come one at a time.
    pub fn stream(&self) -> TokenStream<'_> {
        TokenStream::new(self)
    }
}

/// Refuses a text whose words could not be told apart: the regular expressions go back over a run of white space step
/// by step, and their engine gives up after a million steps and would leave the rest of the text as one word.
fn check_whitespace(text: &str) -> Result<(), TokenizerError> {
    let longest = text.split(|c: char| !c.is_whitespace()).map(str::len).max().unwrap_or(0);
    if longest <= MAX_WHITESPACE_BYTES {
        return Ok(());
    }
    let reason = format!(
        "it has {longest} bytes of white space in a row, the limit is {MAX_WHITESPACE_BYTES}"
    );
    Err(TokenizerError::Encode { reason })
}

#[cfg(test)]
mod tests;
