use serde::Deserialize;

use super::super::testing::gguf;
use super::*;

/// Texts and their tokens by another implementation; see `golden/generate.py`.
#[derive(Deserialize)]
struct Golden {
    pre: String,
    /// Id in the model, text, type.
    tokens: Vec<(u32, String, u32)>,
    merges: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    specials: bool,
    ids: Vec<u32>,
}

impl Golden {
    fn read(json: &str) -> Self {
        serde_json::from_str(json).unwrap()
    }

    fn gguf(&self) -> GgufFile {
        let tokens: Vec<&str> = self.tokens.iter().map(|(_, token, _)| token.as_str()).collect();
        let types: Vec<u32> = self.tokens.iter().map(|(.., kind)| *kind).collect();
        let merges: Vec<&str> = self.merges.iter().map(String::as_str).collect();
        gguf([
            ("tokenizer.ggml.model", "gpt2".into()),
            ("tokenizer.ggml.pre", self.pre.as_str().into()),
            ("tokenizer.ggml.tokens", tokens.as_slice().into()),
            ("tokenizer.ggml.token_type", types.as_slice().into()),
            ("tokenizer.ggml.merges", merges.as_slice().into()),
        ])
    }

    /// Ids of the part of the vocabulary as ids of the model.
    fn original(&self, ids: &[u32]) -> Vec<u32> {
        ids.iter().map(|id| self.tokens[*id as usize].0).collect()
    }

    fn check(&self) {
        let tokenizer = Tokenizer::from_gguf(&self.gguf()).unwrap();
        assert!(self.cases.len() > 10);
        for case in &self.cases {
            let specials = if case.specials { Specials::Parse } else { Specials::Text };
            let ids = tokenizer.encode(&case.text, specials).unwrap();
            assert_eq!(self.original(&ids), case.ids, "{} {:?}", self.pre, case.text);
            if !case.specials && self.pre != "qwen2" {
                assert_eq!(tokenizer.decode(&ids), case.text, "{}", self.pre);
            }
            let mut stream = tokenizer.stream();
            let mut pieces: Vec<String> = ids.iter().filter_map(|id| stream.push(*id)).collect();
            pieces.extend(stream.finish());
            assert_eq!(pieces.concat(), tokenizer.decode(&ids));
        }
    }
}

#[test]
fn smollm_tokens_are_golden() {
    let golden = Golden::read(include_str!("golden/smollm.json"));
    golden.check();
    // With a space in front, as the default of another implementation has it, this word is token 817.
    let system = golden.cases.iter().find(|case| case.text == "system").unwrap();
    assert_eq!(system.ids, [9690]);
}

#[test]
fn qwen2_tokens_are_golden() {
    Golden::read(include_str!("golden/qwen2.json")).check();
}

#[test]
fn llama_bpe_tokens_are_golden() {
    Golden::read(include_str!("golden/llama-bpe.json")).check();
}

#[test]
fn gpt2_tokens_are_golden() {
    Golden::read(include_str!("golden/gpt-2.json")).check();
}

#[test]
fn default_tokens_are_golden() {
    Golden::read(include_str!("golden/default.json")).check();
}

/// A vocabulary of a few words over single letters.
fn small<'a>(extra: impl IntoIterator<Item = (&'a str, super::super::testing::Meta)>) -> GgufFile {
    let tokens =
        ["<bos>", "<|im_end|>", "<think>", "a", "b", "Ġ", "ab", "Ã", "©", "<|eot_id|>", "<", ">"];
    let types = [3, 3, 4, 1, 1, 1, 1, 1, 1, 3, 1, 1];
    gguf(
        [
            ("tokenizer.ggml.model", "gpt2".into()),
            ("tokenizer.ggml.pre", "gpt-2".into()),
            ("tokenizer.ggml.tokens", tokens.as_slice().into()),
            ("tokenizer.ggml.token_type", types.as_slice().into()),
            ("tokenizer.ggml.merges", ["a b"].as_slice().into()),
            ("tokenizer.ggml.bos_token_id", 0.into()),
            ("tokenizer.ggml.eos_token_id", 1.into()),
        ]
        .into_iter()
        .chain(extra),
    )
}

fn build(gguf: &GgufFile) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_gguf(gguf)
}

#[test]
fn special_tokens_are_found_only_where_asked_for() {
    let tokenizer = build(&small([])).unwrap();
    assert_eq!(tokenizer.encode("ab<bos>", Specials::Parse).unwrap(), [6, 0]);
    // Letters outside the small vocabulary are dropped, as a byte is that a real one lacks.
    assert_eq!(tokenizer.encode("ab<bos>", Specials::Text).unwrap(), [6, 10, 4, 11]);
    for specials in [Specials::Parse, Specials::Text] {
        assert_eq!(tokenizer.encode("a<think>b", specials).unwrap(), [3, 2, 4]);
    }
}

#[test]
fn bos_comes_once_and_only_if_wanted() {
    let plain = build(&small([])).unwrap();
    let wanting = build(&small([("tokenizer.ggml.add_bos_token", true.into())])).unwrap();
    let mut ids = vec![3];
    plain.add_bos(&mut ids);
    assert_eq!(ids, [3]);
    wanting.add_bos(&mut ids);
    wanting.add_bos(&mut ids);
    assert_eq!(ids, [0, 3]);
    let llama3 = build(&small([("tokenizer.ggml.pre", "llama-bpe".into())])).unwrap();
    llama3.add_bos(&mut ids);
    ids.remove(0);
    llama3.add_bos(&mut ids);
    assert_eq!(ids, [0, 3]);
}

#[test]
fn stop_ids_are_named_or_known() {
    let tokenizer = build(&small([])).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(0), Some(1)));
    assert_eq!(tokenizer.stop_ids(), [1, 9]);
    let other = build(&small([("tokenizer.ggml.eot_token_id", 3.into())])).unwrap();
    assert_eq!(other.stop_ids(), [1, 3, 9]);
    let beyond = build(&small([("tokenizer.ggml.eos_token_id", 99.into())])).unwrap();
    assert_eq!((beyond.eos(), beyond.stop_ids()), (None, &[1, 9][..]));
}

#[test]
fn streamed_text_is_never_broken() {
    let tokenizer = build(&small([])).unwrap();
    let mut stream = tokenizer.stream();
    assert_eq!(stream.push(6).as_deref(), Some("ab"));
    assert_eq!(stream.push(7), None);
    assert_eq!(stream.push(8).as_deref(), Some("é"));
    assert_eq!((stream.push(1), stream.push(1000)), (None, None));
    assert_eq!(stream.push(2).as_deref(), Some("<think>"));
    assert_eq!(stream.push(7), None);
    assert_eq!(stream.push(3).as_deref(), Some("\u{fffd}a"));
    assert_eq!(stream.push(7), None);
    assert_eq!(stream.finish().as_deref(), Some("\u{fffd}"));
}

#[test]
fn unsupported_kinds_are_named() {
    let spm = build(&small([("tokenizer.ggml.model", "llama".into())])).unwrap_err();
    assert_eq!(spm.kind(), "unsupported_tokenizer");
    assert!(spm.to_string().contains("\"llama\"") && spm.to_string().contains("gpt2"), "{spm}");
    let pre = build(&small([("tokenizer.ggml.pre", "tekken".into())])).unwrap_err();
    assert_eq!(pre.kind(), "unsupported_tokenizer");
    assert!(pre.to_string().contains("\"tekken\"") && pre.to_string().contains("smollm"), "{pre}");
}

#[test]
fn contradictory_vocabularies_are_refused() {
    let types = [1, 1];
    let bad = [
        ("tokenizer.ggml.token_type", types.as_slice().into()),
        ("tokenizer.ggml.merges", ["ab"].as_slice().into()),
        ("tokenizer.ggml.merges", ["a z"].as_slice().into()),
    ];
    for (key, value) in bad {
        let error = build(&small([(key, value)])).unwrap_err();
        assert_eq!(error.kind(), "bad_vocabulary", "{error}");
        assert!(error.to_string().contains("test.gguf"), "{error}");
    }
    let missing = build(&gguf([("tokenizer.ggml.model", "gpt2".into())])).unwrap_err();
    assert_eq!(missing.kind(), "gguf_metadata");
}

#[test]
fn long_runs_are_cut_as_short_ones_or_refused() {
    let golden = Golden::read(include_str!("golden/qwen2.json"));
    let tokenizer = Tokenizer::from_gguf(&golden.gguf()).unwrap();
    let encode =
        |spaces: usize| tokenizer.encode(&format!("a{}b", " ".repeat(spaces)), Specials::Text);
    let last = |spaces| golden.original(&encode(spaces).unwrap()).pop();
    assert_eq!(last(MAX_WHITESPACE_BYTES), last(2));
    let error = encode(MAX_WHITESPACE_BYTES + 1).unwrap_err();
    assert_eq!(error.kind(), "encode_failed");
    assert!(error.to_string().contains("white space"), "{error}");
}
