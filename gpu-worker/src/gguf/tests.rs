use std::fs;
use std::io::Cursor;
use std::ops::Range;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A small file as candle writes it (version 2): strings, arrays, numbers, two tensors.
fn small() -> Vec<u8> {
    let metadata = [
        ("general.architecture", Value::String("llama".into())),
        ("llama.block_count", Value::U32(1)),
        ("llama.rope.freq_base", Value::F32(1e4)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
        ("tokenizer.ggml.tokens", Value::Array(["a", "b"].map(|t| Value::String(t.into())).into())),
        ("tokenizer.ggml.token_type", Value::Array(vec![Value::I32(1), Value::I32(3)])),
    ];
    let tensor = |rows: usize, dtype| {
        let zeros = Tensor::zeros((rows, 32), candle_core::DType::F32, &Device::Cpu).unwrap();
        QTensor::quantize(&zeros, dtype).unwrap()
    };
    let tensors =
        [("a.weight", tensor(2, GgmlDType::Q8_0)), ("b.weight", tensor(1, GgmlDType::F32))];
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let mut file = Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
    file.into_inner()
}

fn open(bytes: &[u8]) -> Result<GgufFile, GgufError> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    let result = GgufFile::open(&path);
    if let Err(error) = &result {
        assert!(error.to_string().contains("model.gguf"), "{error}");
    }
    result
}

fn find(bytes: &[u8], text: &str) -> Range<usize> {
    let start = bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
    start..start + text.len()
}

/// `small()` with the bytes `offset` after `text` replaced by `value`.
fn patched(text: &str, offset: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = small();
    let start = find(&bytes, text).end + offset;
    bytes[start..start + value.len()].copy_from_slice(value);
    bytes
}

fn header(version: u32, tensors: u64, keys: u64) -> Vec<u8> {
    [b"GGUF", &version.to_le_bytes()[..], &tensors.to_le_bytes(), &keys.to_le_bytes()].concat()
}

#[test]
fn a_sound_file_opens() {
    let gguf = open(&small()).unwrap();
    assert_eq!(gguf.architecture().unwrap(), "llama");
    assert_eq!(gguf.u32("llama.block_count").unwrap(), Some(1));
    assert_eq!(gguf.bool("tokenizer.ggml.add_bos_token").unwrap(), Some(true));
    assert_eq!(gguf.strings("tokenizer.ggml.tokens").unwrap(), Some(vec!["a", "b"]));
    assert_eq!(gguf.content().tensor_infos.len(), 2);
    assert_eq!(gguf.name(), None);
}

#[test]
fn metadata_errors_name_the_key() {
    let gguf = open(&small()).unwrap();
    let missing = gguf.required("llama.context_length", GgufFile::u32).unwrap_err();
    assert!(missing.to_string().contains("llama.context_length"), "{missing}");
    let wrong = gguf.u32("general.architecture").unwrap_err();
    assert!(matches!(wrong, GgufError::WrongType { .. }), "{wrong}");
}

#[test]
fn paths_that_are_no_files_are_told_apart() {
    let dir = TempDir::new().unwrap();
    assert_eq!(GgufFile::open(&dir.path().join("none.gguf")).unwrap_err().kind(), "no_such_file");
    assert_eq!(GgufFile::open(dir.path()).unwrap_err().kind(), "not_a_file");
}

#[test]
fn other_formats_are_not_gguf() {
    for bytes in [&b""[..], b"GG", b"PK\x03\x04....", b"FUGG\x03\0\0\0", b"{\"a\": 1}"] {
        assert_eq!(open(bytes).unwrap_err().kind(), "not_gguf");
    }
}

#[test]
fn other_versions_are_refused() {
    for version in [0, 1, 4, 3_u32.swap_bytes()] {
        assert_eq!(open(&header(version, 0, 0)).unwrap_err().kind(), "gguf_version");
    }
    open(&header(3, 0, 0)).unwrap();
}

#[test]
fn a_cut_anywhere_is_a_truncation() {
    let whole = small();
    // The last tensor ends before the padding of the file does.
    let end = whole.len() - 1 - whole.iter().rev().take_while(|b| **b == 0).count();
    for length in 4..end.min(whole.len() - 128) {
        assert_eq!(open(&whole[..length]).unwrap_err().kind(), "gguf_truncated", "at {length}");
    }
}

#[test]
fn absurd_numbers_are_refused_by_name() {
    let huge = u64::MAX.to_le_bytes();
    let cases = [
        (header(3, u64::MAX, 0), "number of tensors"),
        (header(3, 0, 1 << 40), "number of metadata keys"),
        (patched("general.architecture", 4, &huge), "general.architecture"),
        (patched("tokenizer.ggml.tokens", 8, &huge), "tokenizer.ggml.tokens"),
        (patched("tokenizer.ggml.token_type", 8, &huge), "tokenizer.ggml.token_type"),
        (patched("a.weight", 0, &u32::MAX.to_le_bytes()), "dimensions of a.weight"),
        (patched("a.weight", 4, &huge), "size of a.weight"),
    ];
    for (bytes, what) in cases {
        let error = open(&bytes).unwrap_err();
        assert_eq!(error.kind(), "gguf_absurd", "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn tensors_beyond_the_end_are_a_truncation() {
    let bytes = patched("b.weight", 4 + 16 + 4, &(1_u64 << 20).to_le_bytes());
    let error = open(&bytes).unwrap_err();
    assert_eq!(error.kind(), "gguf_truncated");
    assert!(error.to_string().contains("b.weight"), "{error}");
    let beyond = patched("b.weight", 4 + 16 + 4, &(u64::MAX - 31).to_le_bytes());
    assert_eq!(open(&beyond).unwrap_err().kind(), "gguf_truncated");
}

#[test]
fn broken_rules_are_malformed() {
    let cases = [
        patched("llama.block_count", 0, &99_u32.to_le_bytes()),
        patched("tokenizer.ggml.add_bos_token", 4, &[2]),
        patched("b.weight", 4 + 16 + 4, &1_u64.to_le_bytes()),
        patched("b.weight", 4, &31_u64.to_le_bytes()),
    ];
    for (i, bytes) in cases.iter().enumerate().take(3) {
        assert_eq!(open(bytes).unwrap_err().kind(), "gguf_malformed", "case {i}");
    }
    // 31 elements of type F32 are fine, of type Q8_0 they are not.
    open(&cases[3]).unwrap();
    let quantised = patched("a.weight", 4, &31_u64.to_le_bytes());
    assert_eq!(open(&quantised).unwrap_err().kind(), "gguf_malformed");

    let mut twice = small();
    let (a, b) = (find(&twice, "a.weight"), find(&twice, "b.weight"));
    twice.copy_within(a, b.start);
    assert!(open(&twice).unwrap_err().to_string().contains("comes twice"));
}

#[test]
fn an_unknown_tensor_type_is_named() {
    let error = open(&patched("b.weight", 4 + 16, &19_u32.to_le_bytes())).unwrap_err();
    assert_eq!(error.kind(), "gguf_tensor_type");
    assert!(error.to_string().contains("b.weight") && error.to_string().contains("19"), "{error}");
}

#[test]
fn the_sizes_of_tensor_types_are_those_of_the_kernels() {
    use GgmlDType::*;
    let types = [
        (0, F32),
        (1, F16),
        (2, Q4_0),
        (3, Q4_1),
        (6, Q5_0),
        (7, Q5_1),
        (8, Q8_0),
        (9, Q8_1),
        (10, Q2K),
        (11, Q3K),
        (12, Q4K),
        (13, Q5K),
        (14, Q6K),
        (15, Q8K),
        (30, BF16),
    ];
    let sizes = types.map(|(n, t)| (n, t.block_size() as u64, t.type_size() as u64));
    assert_eq!(sizes, scan::TENSOR_TYPES);
}

/// A header with one metadata value, built by hand.
fn with_value(key: &str, value_type: u32, value: &[u8]) -> Vec<u8> {
    let length = (key.len() as u64).to_le_bytes();
    [&header(3, 0, 1)[..], &length, key.as_bytes(), &value_type.to_le_bytes(), value].concat()
}

#[test]
fn an_alignment_that_would_divide_by_zero_is_refused() {
    for (value_type, value) in [(4, 0_u32), (4, 24), (4, u32::MAX), (5, 32)] {
        let bytes = with_value("general.alignment", value_type, &value.to_le_bytes());
        assert!(open(&bytes).is_err(), "type {value_type}, {value}");
    }
    open(&with_value("general.alignment", 4, &64_u32.to_le_bytes())).unwrap();
}

#[test]
fn arrays_of_arrays_end_somewhere() {
    let nested = |depth: usize| {
        let level = [&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes()].concat();
        let innermost = [&0_u32.to_le_bytes()[..], &0_u64.to_le_bytes()].concat();
        with_value("k", 9, &[level.repeat(depth - 1), innermost].concat())
    };
    open(&nested(4)).unwrap();
    assert_eq!(open(&nested(5)).unwrap_err().kind(), "gguf_malformed");
    assert_eq!(open(&nested(100_000)).unwrap_err().kind(), "gguf_malformed");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever bytes change: an error or a file whose tensors can all be read, but for those of types of activations: a model is
    /// refused for them.
    #[test]
    fn changed_bytes_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = small();
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(gguf) = open(&bytes) {
            let mut reader = Cursor::new(&bytes);
            for (name, info) in &gguf.content().tensor_infos {
                let of_activations = matches!(info.ggml_dtype, GgmlDType::Q8_1 | GgmlDType::Q8K);
                let tensor = gguf.content().tensor(&mut reader, name, &Device::Cpu);
                assert!(of_activations || tensor.is_ok(), "{info:?}");
            }
        }
    }

    /// A large value in the place of any eight bytes of the header.
    #[test]
    fn large_values_never_panic(at in any::<prop::sample::Index>(), shift in 0_u32..64) {
        let mut bytes = small();
        let at = at.index(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&(u64::MAX >> shift).to_le_bytes());
        open(&bytes).ok();
    }
}
