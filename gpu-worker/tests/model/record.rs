//! Recordings of small models, against what a plain attention sees of the same text.

use std::ops::ControlFlow;

use candle_core::Tensor;
use half::f16;
use hindsight_gpu_worker::attention::{Attention, AttentionResult};
use hindsight_gpu_worker::model::{Logits, Transformer};
use hindsight_gpu_worker::record::{
    Continuation, Progress, RecordError, Recording, Request, record,
};
use hindsight_gpu_worker::threads::{Pools, Threads};

use crate::small_models::{llama, load, prompt};
use crate::support::attention::InMemory;
use crate::support::gguf::Tiny;

const LAYERS: usize = 3;

fn model() -> Transformer {
    load(Tiny { layers: LAYERS, ..llama() }.write().path())
}

fn pools(threads: u32) -> Pools {
    Pools::new(&Threads { prefill: threads, decode_cores: own_cores(), lent_core: None }, None)
        .unwrap()
}

/// Cores that this thread may run on.
fn own_cores() -> Vec<u32> {
    let set = rustix::thread::sched_getaffinity(None).unwrap();
    (0..1024).filter(|&core| set.is_set(core as usize)).collect()
}

fn recorded(model: &Transformer, request: &Request<'_>) -> Recording {
    record(model, &pools(1), request, &mut |_| ControlFlow::Continue(())).unwrap()
}

/// Plain attention that takes notes.
#[derive(Default)]
struct Noting {
    attention: InMemory,
    /// Of each layer: queries, keys and values, `[tokens, heads, head_dim]`.
    notes: Vec<[Tensor; 3]>,
}

impl Attention for Noting {
    fn forward(
        &mut self,
        layer: usize,
        start: usize,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> AttentionResult {
        self.notes.push([q.clone(), k.clone(), v.clone()]);
        self.attention.forward(layer, start, q, k, v)
    }
}

/// The largest difference between a recording's rows and `[tokens, heads, head_dim]` of a layer, over the tokens from
/// `first` on, as a share of the largest value; `at` says where the recording has a head's row.
fn difference(
    found: &[f16],
    expected: &Tensor,
    first: usize,
    at: impl Fn(usize, usize) -> usize,
) -> f32 {
    let expected = expected.to_vec3::<f32>().unwrap();
    let (mut worst, mut largest) = (0f32, 0f32);
    for (token, heads) in expected[first..].iter().enumerate() {
        for (head, row) in heads.iter().enumerate() {
            let found = &found[at(token, head) * row.len()..];
            for (found, expected) in found.iter().zip(row) {
                worst = worst.max((found.to_f32() - expected).abs());
                largest = largest.max(expected.abs());
            }
        }
    }
    worst / largest
}

#[test]
fn a_recording_is_what_attention_sees_of_the_same_text() {
    let model = model();
    let tokens = prompt(700);
    let (text, steps) = tokens.split_at(690);
    let layers = [0, 2];
    let request =
        Request { prompt: text, continuation: Continuation::Text(steps), layers: &layers };
    let recording = recorded(&model, &request);

    let mut whole = Noting::default();
    model.forward(&tokens, 0, &mut whole, Logits::None).unwrap();
    assert_eq!(recording.steps, 10);
    assert_eq!(recording.softmax_scale, 0.125);
    for (slot, &layer) in layers.iter().enumerate() {
        let [q, k, v] = &whole.notes[layer];
        let query = |token: usize, head: usize| (token * layers.len() + slot) * 4 + head;
        let row = |token: usize, head: usize| (slot * 2 + head) * 700 + token;
        let prompt_q = q.narrow(0, 0, 690).unwrap();
        let differences = [
            difference(&recording.prompt_queries, &prompt_q, 690 - 64, query),
            difference(&recording.queries, q, 690, query),
            difference(&recording.keys, k, 0, row),
            difference(&recording.values, v, 0, row),
        ];
        // The first layer's are rounded once; above it, attention has seen rounded keys and values.
        let most = if layer == 0 { 1.0 / 2048.0 } else { 1.0 / 256.0 };
        assert!(differences.iter().all(|&d| d < most), "layer {layer}: {differences:?}");
    }
    let lengths = [&recording.prompt_queries, &recording.queries, &recording.keys].map(Vec::len);
    assert_eq!(lengths, [64 * 2 * 4 * 64, 10 * 2 * 4 * 64, 2 * 2 * 700 * 64]);
}

#[test]
fn greedy_steps_are_those_of_the_same_text_and_end_where_the_model_ends() {
    let model = model();
    let tokens = prompt(40);
    let mut attention = InMemory::default();
    let mut logits = model.forward(&tokens, 0, &mut attention, Logits::Last).unwrap().unwrap();
    let mut text = vec![];
    for position in tokens.len()..tokens.len() + 6 {
        let token = logits.argmax(1).unwrap().to_vec1::<u32>().unwrap()[0];
        text.push(token);
        logits = model.forward(&[token], position, &mut attention, Logits::Last).unwrap().unwrap();
    }
    let record =
        |continuation| recorded(&model, &Request { prompt: &tokens, continuation, layers: &[1] });
    let forced = record(Continuation::Text(&text));
    assert_eq!(record(Continuation::Greedy { steps: 6, stop: &[] }), forced);

    let end = text.iter().position(|token| !text[..1].contains(token)).unwrap();
    let stop = [text[end]];
    let ended = record(Continuation::Greedy { steps: 6, stop: &stop });
    assert_eq!(ended, record(Continuation::Text(&text[..end])));
}

#[test]
fn threads_do_not_change_a_recording() {
    let model = model();
    let tokens = prompt(200);
    let (text, steps) = tokens.split_at(190);
    let request = Request { prompt: text, continuation: Continuation::Text(steps), layers: &[1] };
    let many = record(&model, &pools(3), &request, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(many, recorded(&model, &request));
}

#[test]
fn progress_counts_tokens_and_steps_and_can_break_off() {
    let model = model();
    let tokens = prompt(600);
    let request =
        Request { prompt: &tokens, continuation: Continuation::Text(&[1, 2, 3]), layers: &[0] };
    let mut seen = vec![];
    let mut until = |last: Progress| {
        record(&model, &pools(1), &request, &mut |progress| {
            seen.push(progress);
            if progress == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    };
    let error = until(Progress::Stepped(2)).unwrap_err();
    assert!(matches!(error, RecordError::Cancelled), "{error}");
    use Progress::{Prefilled, Stepped};
    assert_eq!(seen, [Prefilled(512), Prefilled(600), Stepped(1), Stepped(2)]);
}

#[test]
fn what_cannot_be_recorded_is_refused() {
    let model = model();
    let error = |prompt: &[u32], continuation, layers: &[usize]| {
        let request = Request { prompt, continuation, layers };
        record(&model, &pools(1), &request, &mut |_| ControlFlow::Continue(())).unwrap_err()
    };
    for layers in [&[3][..], &[1, 1], &[2, 0]] {
        let error = error(&[1, 2], Continuation::Text(&[3]), layers);
        assert_eq!(error.kind(), "no_such_layer");
        assert!(error.to_string().contains("0 to 2"), "{error}");
    }
    assert_eq!(error(&[], Continuation::Text(&[3]), &[0]).kind(), "no_tokens");
    assert_eq!(error(&[1], Continuation::Text(&[]), &[0]).kind(), "no_steps");
    let all: Vec<u32> = (0..320).collect();
    let nothing_to_say = Continuation::Greedy { steps: 4, stop: &all };
    assert_eq!(error(&[1], nothing_to_say, &[0]).kind(), "no_steps");
    assert_eq!(error(&[1], Continuation::Text(&[320]), &[0]).kind(), "token_out_of_range");
}
