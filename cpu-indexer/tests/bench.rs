//! Keys and queries of any shape, made from a trace.

use std::path::PathBuf;

use half::f16;
use hindsight_cpu_indexer::bench::{BenchShape, Workload, WorkloadError};
use hindsight_cpu_indexer::replay::{RecordedAttention, Trace};
use hindsight_protocol::geometry::KvDtype;

const GROUP: usize = 3;
const KV_HEADS: usize = 2;
const DIM: usize = 32;
const PROMPT: usize = 200;
const STEPS: usize = 6;
const PROMPT_QUERIES: usize = 8;
/// Tokens that a context begins with as the text does.
const OPENING: usize = 64;

/// A trace of one layer, in which an element's value tells where it belongs: token or step, plus head, plus element.
fn trace(name: &str) -> Trace {
    let heads = GROUP * KV_HEADS;
    let numbered = |rows: usize, heads: usize, row_first: bool| -> Vec<f16> {
        let element = |row: usize, head: usize, at: usize| {
            f16::from_f32(row as f32 + head as f32 / 8.0 + at as f32 / 1024.0)
        };
        let (outer, inner) = if row_first { (rows, heads) } else { (heads, rows) };
        (0..outer)
            .flat_map(|a| (0..inner).map(move |b| if row_first { (a, b) } else { (b, a) }))
            .flat_map(|(row, head)| (0..DIM).map(move |at| element(row, head, at)))
            .collect()
    };
    let tokens = PROMPT + STEPS;
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.safetensors"));
    RecordedAttention {
        model: "none",
        text: "numbers",
        continuation: "text",
        rope: "half",
        softmax_scale: 0.25,
        heads,
        kv_heads: KV_HEADS,
        head_dim: DIM,
        layers: &[0],
        prompt_tokens: PROMPT,
        steps: STEPS,
        queries: &numbered(STEPS, heads, true),
        prompt_queries: &numbered(PROMPT_QUERIES, heads, true),
        keys: &numbered(tokens, KV_HEADS, false),
        values: &numbered(tokens, KV_HEADS, false),
    }
    .write(std::fs::File::create(&path).unwrap())
    .unwrap();
    Trace::read(&path, 16, KvDtype::F16).unwrap()
}

fn shape(context: usize, kv_heads: u32, group: u32, head_dim: u32) -> BenchShape {
    BenchShape { context, kv_heads, group, head_dim, block_tokens: 16, dtype: KvDtype::F16 }
}

fn key(workload: &Workload, head: usize, token: usize) -> Vec<f32> {
    workload.key(head, token).collect()
}

/// What the trace holds of a token: the key of a KV head.
fn recorded(token: usize, head: usize) -> Vec<f32> {
    let element = |at| f16::from_f32(token as f32 + head as f32 / 8.0 + at as f32 / 1024.0);
    (0..DIM).map(|at| element(at).to_f32()).collect()
}

#[test]
fn a_context_begins_and_ends_as_the_text_does() {
    let steps = 2;
    for context in [150, 206, 1000] {
        let workload =
            Workload::new(&trace("ends"), shape(context, 2, 3, DIM as u32), steps).unwrap();
        assert_eq!((workload.prompt_tokens(), workload.steps()), (context - steps, steps));
        for head in 0..2 {
            assert_eq!(key(&workload, head, 0), recorded(0, head));
            assert_eq!(key(&workload, head, OPENING - 1), recorded(OPENING - 1, head));
            // The prompt's last token, then those of the steps.
            for (at, token) in
                [(context - 3, PROMPT - 1), (context - 2, PROMPT), (context - 1, PROMPT + 1)]
            {
                assert_eq!(key(&workload, head, at), recorded(token, head), "{at} of {context}");
            }
        }
    }
}

#[test]
fn copies_of_the_text_differ_a_little_from_it_and_leave_its_opening_out() {
    let workload = Workload::new(&trace("copies"), shape(1000, 2, 3, DIM as u32), 2).unwrap();
    let repeated = PROMPT - OPENING;
    let last = workload.prompt_tokens() - 1;
    for back in 0..repeated {
        let (original, copy) =
            (key(&workload, 0, last - back), key(&workload, 0, last - back - repeated));
        assert_eq!(original, recorded(PROMPT - 1 - back, 0));
        assert_ne!(original, copy);
        for (a, b) in original.iter().zip(&copy) {
            assert!((a - b).abs() <= a.abs() * 0.021, "{a} {b}");
        }
    }
}

#[test]
fn the_same_trace_gives_the_same_keys_and_queries() {
    let make = || Workload::new(&trace("same"), shape(700, 4, 4, 64), 3).unwrap();
    let (a, b) = (make(), make());
    assert!((0..700).all(|token| key(&a, 3, token) == key(&b, 3, token)));
    assert_eq!(a.queries(2, 3), b.queries(2, 3));
    assert_eq!(a.prompt_queries(1), b.prompt_queries(1));
}

#[test]
fn smaller_heads_lie_side_by_side_and_score_as_the_sum() {
    let trace = trace("beside");
    let workload = Workload::new(&trace, shape(206, 1, 3, 2 * DIM as u32), 2).unwrap();
    let both = [recorded(PROMPT - 1, 0), recorded(PROMPT - 1, 1)].concat();
    assert_eq!(key(&workload, 0, 206 - 3), both);
    let queries = workload.queries(1, 0);
    assert_eq!(queries.len(), 3 * 2 * DIM);
    assert_eq!(queries[..DIM], trace.queries(1, 0, 0)[..DIM]);
    assert_eq!(queries[DIM..2 * DIM], trace.queries(1, 0, 1)[..DIM]);
    assert!((workload.softmax_scale() - 0.25 / 2.0_f32.sqrt()).abs() < 1e-6);
    assert_eq!(workload.prompt_queries(0).len(), PROMPT_QUERIES * 3 * 2 * DIM);
}

#[test]
fn larger_heads_are_cut_to_whole_rotary_pairs() {
    let trace = trace("cut");
    let workload = Workload::new(&trace, shape(206, 2, 3, DIM as u32 / 2), 2).unwrap();
    let whole = recorded(PROMPT - 1, 1);
    let cut = key(&workload, 1, 206 - 3);
    let (first, second) = cut.split_at(DIM / 4);
    for (a, b) in first.iter().zip(second) {
        let pair = whole.iter().position(|element| element == a).unwrap();
        assert_eq!(whole[pair + DIM / 2], *b);
    }
}

#[test]
fn heads_that_were_recorded_once_are_taken_again_later() {
    let trace = trace("later");
    let workload = Workload::new(&trace, shape(206, 4, 3, DIM as u32), 2).unwrap();
    assert_eq!(workload.queries(0, 0), trace.queries(0, 0, 0));
    assert_eq!(workload.queries(0, 2), trace.queries(2, 0, 0));
    // Its last prompt queries are then those of two prompt tokens less, and of the first two steps.
    let length = GROUP * DIM;
    let seeds = workload.prompt_queries(2);
    assert_eq!(seeds[seeds.len() - length..], *trace.queries(1, 0, 0));
    assert_eq!(seeds[..length], trace.last_prompt_queries(0, 0)[2 * length..3 * length]);
}

#[test]
fn what_a_trace_cannot_give_is_refused() {
    let trace = trace("refused");
    let refusal = |shape, steps| Workload::new(&trace, shape, steps).unwrap_err();
    assert!(matches!(
        refusal(shape(400, 2, 3, 48), 2),
        WorkloadError::HeadDim { recorded: DIM, wanted: 48, .. }
    ));
    assert!(matches!(
        refusal(shape(400, 2, 3, 32), 7),
        WorkloadError::Steps { recorded: STEPS, wanted: 7, .. }
    ));
    assert!(matches!(refusal(shape(100, 2, 3, 32), 2), WorkloadError::Short { tokens: 100, .. }));
}
