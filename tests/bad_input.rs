//! Bad input: a message that names it, the way out, and a documented exit code.

mod support;

use std::fs;

use support::{hindsight, model, refused, run_with_input, stderr};
use tempfile::TempDir;

fn run(prompt: &[u8], arguments: &[&str], exit: i32) -> (String, String) {
    refused(&run_with_input(prompt, arguments), exit)
}

/// Runs with another model file.
fn with_model(path: &std::path::Path) -> (String, String) {
    let output = hindsight()
        .args(["run", "--json", "--prompt", "Hello", "--model"])
        .arg(path)
        .output()
        .unwrap();
    refused(&output, 3)
}

/// A copy of the model's header and as much of its weights as fits `bytes`, changed by `change`.
fn damaged(bytes: usize, change: impl FnOnce(&mut Vec<u8>)) -> (TempDir, std::path::PathBuf) {
    use std::io::Read;
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("damaged.gguf");
    let mut contents = Vec::new();
    fs::File::open(model()).unwrap().take(bytes as u64).read_to_end(&mut contents).unwrap();
    change(&mut contents);
    fs::write(&path, contents).unwrap();
    (directory, path)
}

#[test]
fn a_model_that_is_not_there_is_named() {
    let (kind, message) = with_model("/no/such/model.gguf".as_ref());
    assert_eq!(kind, "no_such_file");
    assert!(message.contains("/no/such/model.gguf"), "{message}");
}

#[test]
fn a_name_that_is_in_no_registry_lists_those_that_are() {
    let (_, message) = with_model("llama-9000".as_ref());
    assert!(message.contains("llama-9000") && message.contains("smollm2-135m"), "{message}");
}

#[test]
fn a_text_is_no_model() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("text.gguf");
    fs::write(&path, "This is not a model, but it is long enough to be a header.").unwrap();
    let (kind, message) = with_model(&path);
    assert_eq!(kind, "not_gguf");
    assert!(message.contains("text.gguf"), "{message}");
}

#[test]
fn a_truncated_model_is_refused() {
    for bytes in [10, 5000, 50_000_000] {
        let (_directory, path) = damaged(bytes, |_| ());
        let (kind, message) = with_model(&path);
        assert_eq!(kind, "gguf_truncated", "{message}");
        assert!(message.contains("damaged.gguf"), "{message}");
    }
}

#[test]
fn absurd_counts_are_refused_before_memory_is_taken_for_them() {
    // The number of tensors and of metadata entries follow magic and version.
    for offset in [8, 16] {
        let (_directory, path) = damaged(3_000_000, |contents| {
            contents[offset..offset + 8].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
        });
        let (kind, message) = with_model(&path);
        assert_eq!(kind, "gguf_absurd", "{message}");
        assert!(message.contains("damaged.gguf"), "{message}");
    }
}

/// Replaces the first occurrence of `from` by `to`, of the same length.
fn replace(contents: &mut [u8], from: &[u8], to: &[u8]) {
    let at = contents.windows(from.len()).position(|window| window == from).unwrap();
    contents[at..at + to.len()].copy_from_slice(to);
}

#[test]
fn an_unsupported_architecture_is_named() {
    let (_directory, path) = damaged(99_000_000, |contents| {
        // The value of general.architecture, not the prefix of later keys.
        let key = b"general.architecture";
        let at = contents.windows(key.len()).position(|window| window == key).unwrap();
        replace(&mut contents[at..], b"llama", b"mamba");
    });
    let (kind, message) = with_model(&path);
    assert_eq!(kind, "model_architecture_unsupported");
    assert!(message.contains("mamba") && message.contains("qwen2"), "{message}");
}

#[test]
fn an_unknown_pre_tokenizer_is_an_error_not_a_guess() {
    let (_directory, path) = damaged(99_000_000, |contents| {
        let key = b"tokenizer.ggml.pre";
        let at = contents.windows(key.len()).position(|window| window == key).unwrap();
        replace(&mut contents[at..], b"smollm", b"strange"[..6].as_ref());
    });
    let (kind, message) = with_model(&path);
    assert_eq!(kind, "unsupported_tokenizer");
    assert!(message.contains("strang") && message.contains("smollm"), "{message}");
}

#[test]
fn an_empty_prompt_is_refused() {
    for input in [&b""[..], b" \n\t"] {
        assert_eq!(run(input, &[], 5).0, "empty_prompt");
    }
}

#[test]
fn a_prompt_that_is_not_utf8_is_refused_with_its_place() {
    let (kind, message) = run(b"caf\xe9", &[], 5);
    assert_eq!(kind, "prompt_not_utf8");
    assert!(message.contains("byte 3") && message.contains("iconv"), "{message}");
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_with_both_lengths() {
    let (kind, message) = run(support::book(10_000).as_bytes(), &["--context", "1000"], 5);
    assert_eq!(kind, "prompt_too_long");
    assert!(message.contains("1000") && message.contains("--context"), "{message}");
}

#[test]
fn a_context_beyond_the_models_needs_to_be_allowed() {
    let (kind, message) = run(b"Hello", &["--context", "9000"], 6);
    assert_eq!(kind, "context_beyond_trained");
    assert!(message.contains("8192") && message.contains("--allow-beyond-trained"), "{message}");
}

#[test]
fn an_arena_beyond_the_memory_is_refused_with_the_arithmetic() {
    let flags = ["--context", "100000000", "--allow-beyond-trained"];
    let (kind, message) = run(b"Hello", &flags, 6);
    assert_eq!(kind, "memory");
    assert!(message.contains("100000000 tokens x 22.50 KiB"), "{message}");
}

#[test]
fn nothing_to_select_is_refused() {
    let (kind, message) = run(b"Hello", &["--top-k", "0"], 2);
    assert_eq!(kind, "index_parameters");
    assert!(message.contains("top-k is 0"), "{message}");
}

#[test]
fn a_core_that_does_not_exist_is_refused_with_those_that_do() {
    let (kind, message) = run(b"Hello", &["--indexer-core", "4000"], 7);
    assert_eq!(kind, "no_such_core");
    assert!(message.contains("4000") && message.contains('0'), "{message}");
}

#[test]
fn sampling_out_of_range_is_refused() {
    let (_, message) = run(b"Hello", &["--top-p", "0"], 2);
    assert!(message.contains("top-p is 0"), "{message}");
}

#[test]
fn a_child_role_is_not_for_the_command_line() {
    let output = hindsight().args(["gpu-worker", "900", "901"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("hindsight run"));
}
