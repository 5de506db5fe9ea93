//! Replaying traces, and refusing files that are none.

use std::collections::HashMap;
use std::path::PathBuf;

use half::f16;
use hindsight_cpu_indexer::parameters::IndexParameters;
use hindsight_cpu_indexer::replay::{
    BlockCaches, Eviction, RecordedAttention, ReplayPolicy, Trace, replay,
};
use hindsight_protocol::geometry::KvDtype;
use safetensors::tensor::{Dtype, TensorView};

const LAYERS: usize = 2;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 16;
const PROMPT: usize = 400;
const STEPS: usize = 6;
const PROMPT_QUERIES: usize = 8;

/// A small trace: tensors by name, with shape and elements.
#[derive(Clone)]
struct Parts {
    metadata: HashMap<String, String>,
    halves: Vec<(&'static str, Vec<usize>, Vec<u8>)>,
    layers: Vec<u8>,
}

impl Parts {
    fn new() -> Self {
        let mut state = 1_u64;
        let mut halves = |shape: &[usize]| -> Vec<u8> {
            (0..shape.iter().product::<usize>())
                .flat_map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99_991);
                    f16::from_f32((state >> 40) as f32 / (1 << 22) as f32 - 2.0).to_le_bytes()
                })
                .collect()
        };
        let tokens = PROMPT + STEPS;
        let shapes = [
            ("q", vec![STEPS, LAYERS, HEADS, DIM]),
            ("prompt_q", vec![PROMPT_QUERIES, LAYERS, HEADS, DIM]),
            ("k", vec![LAYERS, KV_HEADS, tokens, DIM]),
            ("v", vec![LAYERS, KV_HEADS, tokens, DIM]),
        ];
        let metadata = [
            ("heads", HEADS.to_string()),
            ("kv_heads", KV_HEADS.to_string()),
            ("head_dim", DIM.to_string()),
            ("steps", STEPS.to_string()),
            ("prompt_tokens", PROMPT.to_string()),
            ("softmax_scale", "0.25".to_owned()),
        ];
        Self {
            metadata: metadata.map(|(name, value)| (name.to_owned(), value)).into(),
            halves: shapes.map(|(name, shape)| (name, shape.clone(), halves(&shape))).into(),
            layers: [2_i32, 7].iter().flat_map(|layer| layer.to_le_bytes()).collect(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut tensors: Vec<(&str, TensorView<'_>)> = self
            .halves
            .iter()
            .map(|(name, shape, data)| {
                (*name, TensorView::new(Dtype::F16, shape.clone(), data).unwrap())
            })
            .collect();
        let shape = vec![self.layers.len() / 4];
        tensors.push(("layers", TensorView::new(Dtype::I32, shape, &self.layers).unwrap()));
        safetensors::serialize(tensors, Some(self.metadata.clone())).unwrap()
    }
}

fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn read(name: &str, bytes: &[u8]) -> Result<Trace, String> {
    Trace::read(&file(name, bytes), 16, KvDtype::F16).map_err(|error| error.to_string())
}

#[test]
fn the_exact_policy_is_the_measure() {
    let trace = read("exact.safetensors", &Parts::new().bytes()).unwrap();
    let parameters = IndexParameters { top_k: 32, ..Default::default() };
    let report = replay(&trace, ReplayPolicy::Exact, &parameters, &BlockCaches::default()).unwrap();
    assert_eq!((report.recall_mean, report.mass_min), (1.0, 1.0));
    assert!((report.bytes_share - 1.0).abs() < 1e-9);
    assert_eq!(report.output_error_mean, report.exact_output_error_mean);
    assert!(report.block_mass_min >= 1.0);
}

#[test]
fn a_budget_of_everything_makes_no_error() {
    let trace = read("all.safetensors", &Parts::new().bytes()).unwrap();
    let parameters = IndexParameters { top_k: PROMPT + STEPS, ..Default::default() };
    for policy in [ReplayPolicy::Exact, ReplayPolicy::Lfps, ReplayPolicy::SlidingWindow] {
        let report = replay(&trace, policy, &parameters, &BlockCaches::default()).unwrap();
        assert!(report.output_error_max < 1e-3, "{}: {}", policy.name(), report.output_error_max);
        assert_eq!(report.recall_mean, 1.0);
    }
}

#[test]
fn every_policy_replays() {
    let trace = read("every.safetensors", &Parts::new().bytes()).unwrap();
    let parameters = IndexParameters { top_k: 32, ..Default::default() };
    for policy in [ReplayPolicy::Lfps, ReplayPolicy::PageMinMax, ReplayPolicy::SlidingWindow] {
        let report = replay(&trace, policy, &parameters, &BlockCaches::default()).unwrap();
        assert_eq!(report.steps, STEPS);
        assert!(report.mass_min > 0.0 && report.mass_min <= report.mass_mean);
        assert!(report.output_error_mean >= 0.0 && report.output_error_max.is_finite());
    }
}

#[test]
fn caches_of_every_rule_fetch_no_less_than_the_optimum() {
    let trace = read("caches.safetensors", &Parts::new().bytes()).unwrap();
    let parameters = IndexParameters { top_k: 32, ..Default::default() };
    let evictions =
        vec![Eviction::Optimal, Eviction::Clock, Eviction::Lru, Eviction::Lfu, Eviction::Score];
    let rules = evictions.len();
    let whole = (PROMPT + STEPS).div_ceil(16);
    let caches = BlockCaches { blocks: vec![whole - 1, whole], evictions };
    let report = replay(&trace, ReplayPolicy::Exact, &parameters, &caches).unwrap();
    assert_eq!(report.caches.len(), 2 * rules);
    let blocks = report.blocks_mean;
    for (at, cache) in report.caches.iter().enumerate() {
        let optimum = &report.caches[at / rules * rules];
        assert_eq!(optimum.eviction, "optimal");
        assert!(cache.misses_mean >= optimum.misses_mean, "{cache:?} against {optimum:?}");
        assert!(cache.misses_mean >= cache.first_misses_mean && cache.first_misses_mean > 0.0);
        assert!((cache.hit_rate - (1.0 - cache.misses_mean / blocks)).abs() < 1e-9);
        let bytes = (LAYERS * KV_HEADS * 16 * DIM * 4) as f64;
        assert!((cache.shipped_bytes_per_token - cache.misses_mean * bytes).abs() < 1e-6);
        assert!((cache.selected_bytes_per_token - blocks * bytes).abs() < 1e-6);
    }
    for cache in &report.caches[rules..] {
        // The whole text fits: each block travels once.
        assert_eq!((cache.cache_blocks, cache.evictions_mean), (whole, 0.0));
        assert_eq!(cache.misses_mean, cache.first_misses_mean);
    }
}

#[test]
fn a_cache_that_cannot_hold_a_selection_is_refused_with_its_size() {
    let trace = read("small-cache.safetensors", &Parts::new().bytes()).unwrap();
    let parameters = IndexParameters { top_k: 32, ..Default::default() };
    let caches = BlockCaches { blocks: vec![4], evictions: vec![Eviction::Lru] };
    let error = replay(&trace, ReplayPolicy::Exact, &parameters, &caches).unwrap_err();
    let message = error.to_string();
    assert!(message.starts_with("a block cache of 4 blocks"), "{message}");
    assert!(message.contains("select fewer keys"), "{message}");
}

#[test]
fn files_that_are_no_traces_are_refused_by_what_is_wrong() {
    let whole = Parts::new();
    let bytes = whole.bytes();
    let expect = |name: &str, bytes: &[u8], needle: &str| {
        let message = read(name, bytes).expect_err(name);
        assert!(message.contains(needle), "{name}: {message}");
        assert!(message.contains(name), "{name} is not named: {message}");
    };
    expect("empty", &[], "not a safetensors file");
    expect("text", b"In the beginning", "not a safetensors file");
    expect("cut", &bytes[..bytes.len() - 7], "not a safetensors file");

    let with = |name: &str, value: &str| {
        let mut parts = whole.clone();
        parts.metadata.insert(name.to_owned(), value.to_owned());
        parts.bytes()
    };
    expect("heads-none", &with("heads", "0"), "heads is 0");
    expect("heads-uneven", &with("heads", "3"), "3 query heads cannot be shared");
    expect("heads-many", &with("heads", "8"), "not F16 of shape");
    expect("dim-odd", &with("head_dim", "17"), "head_dim is 17");
    expect("steps-absurd", &with("steps", "99999999999999"), "steps is 99999999999999");
    expect("steps-text", &with("steps", "many"), "no number");
    expect("scale-nan", &with("softmax_scale", "NaN"), "softmax_scale is NaN");

    let mut parts = whole.clone();
    parts.metadata.remove("kv_heads");
    expect("no-kv-heads", &parts.bytes(), "lacks kv_heads");
    let mut parts = whole.clone();
    parts.halves.remove(2);
    expect("no-keys", &parts.bytes(), "no tensor k");
    let mut parts = whole.clone();
    parts.layers.clear();
    expect("no-layers", &parts.bytes(), "layers");
    let mut parts = whole.clone();
    parts.halves[3].2[..2].copy_from_slice(&f16::INFINITY.to_le_bytes());
    expect("infinite", &parts.bytes(), "no finite number");
    let missing = PathBuf::from("no-such-trace.safetensors");
    let message = Trace::read(&missing, 16, KvDtype::F16).unwrap_err().to_string();
    assert!(message.contains("cannot read no-such-trace.safetensors"), "{message}");
}

/// What was written is what a reader of the format finds, and the same every time.
#[test]
fn a_written_trace_is_read_back() {
    let halves = |count: usize, from: f32| -> Vec<f16> {
        (0..count).map(|at| f16::from_f32(from + (at % 1000) as f32 / 8.0)).collect()
    };
    let tokens = PROMPT + STEPS;
    let width = LAYERS * HEADS * DIM;
    let cache = LAYERS * KV_HEADS * tokens * DIM;
    let (queries, prompt_queries) =
        (halves(STEPS * width, 1.0), halves(PROMPT_QUERIES * width, 2.0));
    let (keys, values) = (halves(cache, 3.0), halves(cache, 4.0));
    let recorded = RecordedAttention {
        model: "a model",
        text: "a \"text\"",
        continuation: "text",
        rope: "interleaved",
        softmax_scale: 0.25,
        heads: HEADS,
        kv_heads: KV_HEADS,
        head_dim: DIM,
        layers: &[2, 7],
        prompt_tokens: PROMPT,
        steps: STEPS,
        queries: &queries,
        prompt_queries: &prompt_queries,
        keys: &keys,
        values: &values,
    };
    let mut bytes = Vec::new();
    recorded.write(&mut bytes).unwrap();
    let mut again = Vec::new();
    recorded.write(&mut again).unwrap();
    assert_eq!(bytes, again);

    let trace = read("written.safetensors", &bytes).unwrap();
    assert_eq!((trace.prompt_tokens(), trace.steps()), (PROMPT, STEPS));
    assert_eq!((trace.layers(), trace.softmax_scale()), (&[2, 7][..], 0.25));
    let group = HEADS / KV_HEADS * DIM;
    let floats = |halves: &[f16]| halves.iter().map(|half| half.to_f32()).collect::<Vec<_>>();
    let last_head = floats(&queries[queries.len() - group..]);
    assert_eq!(trace.queries(STEPS - 1, LAYERS - 1, KV_HEADS - 1), last_head);
    let of_prompt = trace.last_prompt_queries(0, 1);
    assert_eq!(of_prompt[..group], floats(&prompt_queries[group..2 * group]));
    let last = trace.cache().head(LAYERS - 1, KV_HEADS - 1, tokens);
    let bits = |halves: &[f16]| halves.iter().map(|half| half.to_bits()).collect::<Vec<_>>();
    assert_eq!(last.key(tokens - 1), bits(&keys[cache - DIM..]));
    assert_eq!(last.value(0), bits(&values[cache - tokens * DIM..][..DIM]));

    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    assert_eq!((metadata["model"].as_str(), metadata["text"].as_str()), ("a model", "a \"text\""));
    assert_eq!(metadata["rope"], "interleaved");

    let short = RecordedAttention { keys: &keys[1..], ..recorded };
    let problem = short.write(&mut Vec::new()).unwrap_err().to_string();
    assert!(problem.contains("elements of k"), "{problem}");
}
