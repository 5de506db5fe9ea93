//! The vocabulary and the merges in the metadata of a GGUF file.

use std::path::Path;

use tokenizers::models::bpe::{BPE, Vocab};

use super::super::GgufFile;
use super::alphabet;
use super::error::TokenizerError;
use super::pre_tokenizer::PreTokenizer;

/// `tokenizer.ggml.token_type` of control tokens.
pub(super) const CONTROL: u32 = 3;
/// `tokenizer.ggml.token_type` of tokens that are found in any text as they are written.
pub(super) const USER_DEFINED: u32 = 4;
/// `tokenizer.ggml.token_type` of ordinary pieces of text and of bytes.
const TEXT: [u32; 2] = [1, 6];

/// The vocabulary of a GGUF file.
pub(super) struct Vocabulary<'a> {
    path: &'a Path,
    /// Tokens as written, by id.
    pub(super) tokens: Vec<&'a str>,
    /// `tokenizer.ggml.token_type` of each token.
    types: Vec<u32>,
    merges: Vec<(String, String)>,
}

impl<'a> Vocabulary<'a> {
    pub(super) fn read(gguf: &'a GgufFile) -> Result<Self, TokenizerError> {
        let tokens = gguf.required("tokenizer.ggml.tokens", GgufFile::strings)?;
        let types = match gguf.u32s("tokenizer.ggml.token_type")? {
            Some(types) if types.len() == tokens.len() => types,
            Some(types) => {
                let reason = format!("{} tokens, but {} types", tokens.len(), types.len());
                return Err(bad(gguf.path(), reason));
            }
            None => vec![TEXT[0]; tokens.len()],
        };
        let merges = gguf
            .required("tokenizer.ggml.merges", GgufFile::strings)?
            .into_iter()
            .map(|merge| {
                let (left, right) = merge
                    .split_once(' ')
                    .ok_or_else(|| bad(gguf.path(), format!("the merge {merge:?} is no pair")))?;
                Ok((left.to_owned(), right.to_owned()))
            })
            .collect::<Result<_, TokenizerError>>()?;
        Ok(Self { path: gguf.path(), tokens, types, merges })
    }

    /// Tokens of the given types that can be found in a text: text and id.
    ///
    /// One character could not be shielded, so a special token of one character is never found.
    pub(super) fn special(&self, kinds: &[u32]) -> impl Iterator<Item = (&'a str, u32)> {
        (0..).zip(&self.tokens).zip(&self.types).filter_map(|((id, token), kind)| {
            (kinds.contains(kind) && token.chars().nth(1).is_some()).then_some((*token, id))
        })
    }

    /// The merges, over the tokens that a text may become by itself: never a control token.
    pub(super) fn bpe(&self, rule: PreTokenizer) -> Result<tokenizers::Tokenizer, TokenizerError> {
        let bad = |e: tokenizers::Error| self.bad(e.to_string());
        let vocabulary: Vocab = (0..)
            .zip(&self.tokens)
            .zip(&self.types)
            .filter(|(_, kind)| TEXT.contains(kind) || **kind == USER_DEFINED)
            .map(|((id, token), _)| ((*token).to_owned(), id))
            .collect();
        let bpe = BPE::builder()
            .vocab_and_merges(vocabulary, self.merges.clone())
            .ignore_merges(rule.ignores_merges())
            .build()
            .map_err(bad)?;
        let mut tokenizer = tokenizers::Tokenizer::new(bpe);
        tokenizer.with_normalizer(rule.normalizer()).map_err(bad)?;
        tokenizer.with_pre_tokenizer(Some(rule.build().map_err(bad)?));
        Ok(tokenizer)
    }

    /// The bytes of text of one token.
    pub(super) fn bytes(&self, id: usize) -> Vec<u8> {
        let token = self.tokens[id];
        match self.types[id] {
            USER_DEFINED => token.as_bytes().to_vec(),
            kind if TEXT.contains(&kind) => {
                alphabet::bytes(token).unwrap_or_else(|| token.as_bytes().to_vec())
            }
            _ => Vec::new(),
        }
    }

    /// The error that the vocabulary is unusable.
    pub(super) fn bad(&self, reason: String) -> TokenizerError {
        bad(self.path, reason)
    }
}

fn bad(path: &Path, reason: String) -> TokenizerError {
    TokenizerError::Vocabulary { path: path.to_owned(), reason }
}
