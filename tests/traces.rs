//! Attention of a real model is recorded, and replayed.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use half::f16;
use safetensors::SafeTensors;
use serde_json::Value;
use support::{hindsight, kill, model, refused, stderr, wait_until};
use tempfile::TempDir;

const LAYERS: [usize; 3] = [2, 7, 18];
/// SmolLM2-135M's heads.
const HEADS: usize = 9;
const KV_HEADS: usize = 3;
const HEAD_DIM: usize = 64;

/// Records the first layers of a text that are needed here.
fn record(directory: &Path, name: &str, arguments: &[&str]) -> Output {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/alice.txt");
    hindsight()
        .args(["trace", "record", "--json", "--model"])
        .arg(model())
        .arg("--text")
        .arg(text)
        .arg("--output")
        .arg(directory.join(name))
        .args(arguments)
        .output()
        .unwrap()
}

/// Records; must succeed.
fn recorded(directory: &Path, name: &str, arguments: &[&str]) -> (PathBuf, Value) {
    let output = record(directory, name, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    (directory.join(name), serde_json::from_slice(&output.stdout).unwrap())
}

/// A tensor's shape and elements.
fn tensor(file: &[u8], name: &str) -> (Vec<usize>, Vec<f32>) {
    let tensors = SafeTensors::deserialize(file).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    let elements = tensor.data().chunks_exact(2);
    let elements = elements.map(|bytes| f16::from_le_bytes([bytes[0], bytes[1]]).to_f32());
    (tensor.shape().to_vec(), elements.collect())
}

/// Root of the mean square difference of the rows of `tokens`, over that of the rows themselves, in two tensors
/// `[layers, kv_heads, tokens, head_dim]` of the same layers.
fn difference(
    [(shape, elements), (other_shape, others)]: [&(Vec<usize>, Vec<f32>); 2],
    tokens: std::ops::Range<usize>,
) -> f64 {
    let (mut off, mut all) = (0.0, 0.0);
    for head in 0..shape[0] * shape[1] {
        for token in tokens.clone() {
            let row = |elements: &[f32], tokens: usize| {
                elements[(head * tokens + token) * HEAD_DIM..][..HEAD_DIM].to_vec()
            };
            for (a, b) in row(elements, shape[2]).iter().zip(row(others, other_shape[2])) {
                off += f64::from(a - b).powi(2);
                all += f64::from(b).powi(2);
            }
        }
    }
    (off / all).sqrt()
}

#[test]
fn recorded_steps_are_those_of_the_text_and_replay_reads_them() {
    let directory = TempDir::new().unwrap();
    let length = ["--prompt-tokens", "600", "--steps", "8", "--layers", "7,2,18"];
    let (path, report) = recorded(directory.path(), "alice.safetensors", &length);
    assert_eq!(report["path"], path.to_str().unwrap());
    assert_eq!((&report["prompt_tokens"], &report["steps"]), (&600.into(), &8.into()));
    assert_eq!(report["layers"], serde_json::json!(LAYERS));
    assert_eq!(report["bytes"], fs::metadata(&path).unwrap().len());

    let file = fs::read(&path).unwrap();
    let [q, prompt_q, k, v] = ["q", "prompt_q", "k", "v"].map(|name| tensor(&file, name));
    assert_eq!(q.0, [8, LAYERS.len(), HEADS, HEAD_DIM]);
    assert_eq!(prompt_q.0, [64, LAYERS.len(), HEADS, HEAD_DIM]);
    assert_eq!(k.0, [LAYERS.len(), KV_HEADS, 608, HEAD_DIM]);
    assert_eq!(v.0, k.0);

    // The same text read as a prompt: what decode steps store is what prefill stores.
    let longer = ["--prompt-tokens", "640", "--steps", "1", "--layers", "2,7,18"];
    let (longer, _) = recorded(directory.path(), "longer.safetensors", &longer);
    let longer = fs::read(longer).unwrap();
    for (name, tensor_of_steps) in [("k", &k), ("v", &v)] {
        let whole = tensor(&longer, name);
        let steps = difference([tensor_of_steps, &whole], 600..608);
        assert!(steps < 0.02, "{name} of the steps: {steps}");
        let prompt = difference([tensor_of_steps, &whole], 0..600);
        assert!(prompt < 0.02, "{name} of the prompt: {prompt}");
    }
    // Its last 64 prompt queries are at the positions 576 to 639; those of the steps are 600 to 607.
    let width = LAYERS.len() * HEADS * HEAD_DIM;
    let of_prompt = tensor(&longer, "prompt_q").1[24 * width..32 * width].to_vec();
    let rows = |elements| (vec![8, 1, width / HEAD_DIM, HEAD_DIM], elements);
    let queries = difference([&rows(q.1), &rows(of_prompt)], 0..width / HEAD_DIM);
    assert!(queries < 0.02, "queries of the steps: {queries}");

    let svg = directory.path().join("plot.svg");
    let output = hindsight()
        .arg("replay")
        .arg(&path)
        .args(["--policy", "exact,lfps,page-minmax,sliding-window", "--top-k", "128", "--json"])
        .args(["--cache-blocks", "38", "--eviction", "clock,lru,lfu,score,optimal"])
        .arg("--plot")
        .arg(&svg)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let reports: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let of = |policy: &str| {
        let report = reports.iter().find(|report| report["policy"] == policy).unwrap();
        assert_eq!((&report["trace"], &report["steps"]), (&"alice".into(), &8.into()));
        |key: &str| report[key].as_f64().unwrap()
    };
    let exact = of("exact");
    assert_eq!((exact("mass_mean"), exact("recall_mean")), (1.0, 1.0));
    let lfps = of("lfps");
    assert!(lfps("mass_mean") > 0.9, "{}", lfps("mass_mean"));
    assert!(lfps("block_mass_mean") >= lfps("mass_mean"));
    assert!(of("sliding-window")("recall_mean") < lfps("recall_mean"));
    for report in &reports {
        let caches = report["caches"].as_array().unwrap();
        let rules: Vec<&str> =
            caches.iter().map(|cache| cache["eviction"].as_str().unwrap()).collect();
        assert_eq!(rules, ["clock", "lru", "lfu", "score", "optimal"]);
        // The text's 608 tokens fit, so that nothing makes room for anything.
        assert!(caches.iter().all(|cache| cache["evictions_mean"] == 0.0), "{caches:?}");
    }
    let svg = fs::read_to_string(svg).unwrap();
    for name in ["exact", "lfps", "page-minmax", "sliding-window", "alice"] {
        assert!(svg.contains(name), "{name}");
    }
}

#[test]
fn a_free_running_model_is_recorded_as_it_goes() {
    let directory = TempDir::new().unwrap();
    let arguments = ["--prompt-tokens", "100", "--steps", "4", "--layers", "all", "--free-running"];
    let (path, report) = recorded(directory.path(), "free.safetensors", &arguments);
    assert_eq!(report["layers"].as_array().unwrap().len(), 30);
    let file = fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&file).unwrap();
    let metadata = header.metadata().clone().unwrap();
    assert_eq!(metadata["continuation"], "greedy");
    assert_eq!(
        (metadata["text"].as_str(), metadata["rope"].as_str()),
        ("alice.txt", "interleaved")
    );
    assert_eq!(metadata["model"], "smollm2-135m");

    // What the model says is not the text's next word for long; the first step's token is at the position 100.
    let forced = &arguments[..6];
    let (path, _) = recorded(directory.path(), "forced.safetensors", forced);
    let (free, forced) = (tensor(&file, "k"), tensor(&fs::read(path).unwrap(), "k"));
    assert!(difference([&free, &forced], 0..100) < 1e-6);
    assert!(difference([&free, &forced], 100..104) > 0.05);
}

#[test]
fn a_file_is_replaced_only_on_request() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("mine");
    fs::write(&path, "mine").unwrap();
    let arguments = ["--prompt-tokens", "8", "--steps", "1", "--layers", "0"];
    let (kind, message) = refused(&record(directory.path(), "mine", &arguments), 2);
    assert_eq!(kind, "output_exists");
    assert!(message.contains("--force"), "{message}");
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    recorded(directory.path(), "mine", &[&arguments[..], &["--force"]].concat());
    assert!(SafeTensors::deserialize(&fs::read(&path).unwrap()).is_ok());
}

#[test]
fn what_cannot_be_recorded_is_refused_and_nothing_is_left() {
    let directory = TempDir::new().unwrap();
    let refuse = |arguments: &[&str], exit| {
        let refused = refused(&record(directory.path(), "none", arguments), exit);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        refused
    };
    let (kind, message) = refuse(&["--prompt-tokens", "8000", "--steps", "100"], 5);
    assert_eq!(kind, "text_too_short");
    assert!(message.contains("alice.txt") && message.contains("8100"), "{message}");
    let (kind, message) = refuse(&["--prompt-tokens", "8000", "--steps", "200"], 6);
    assert_eq!(kind, "context_beyond_trained");
    assert!(message.contains("8200") && message.contains("8192"), "{message}");
    let (kind, message) = refuse(&["--prompt-tokens", "8", "--layers", "3,30"], 2);
    assert_eq!(kind, "no_such_layer");
    assert!(message.contains("0 to 29"), "{message}");
}

#[test]
fn an_interrupt_that_comes_while_the_model_is_looked_for_is_not_lost() {
    for _ in 0..8 {
        an_interrupted_recording_leaves_nothing();
    }
}

#[test]
fn an_interrupted_recording_leaves_nothing() {
    let directory = TempDir::new().unwrap();
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/alice.txt");
    let child = hindsight()
        .args(["trace", "record", "--prompt-tokens", "7000", "--steps", "16", "--model"])
        .arg(model())
        .arg("--text")
        .arg(text)
        .arg("--output")
        .arg(directory.path().join("none"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Its threads are there once the model is being loaded.
    let threads = || support::status_field(child.id(), "Threads:").unwrap().parse::<u32>().unwrap();
    wait_until("the recording has begun", || threads() > 1);
    kill(child.id(), rustix::process::Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
