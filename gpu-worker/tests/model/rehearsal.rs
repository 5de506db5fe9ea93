//! Queries that are told ahead of time.

use candle_core::Tensor;
use hindsight_gpu_worker::attention::{Attention, AttentionResult, Rehearsal};
use hindsight_gpu_worker::model::Logits;

use crate::small_models::{llama, load};
use crate::support::gguf::Tiny;

/// What the model calls, with the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Announce(usize),
    Rehearse(usize),
    Forward(usize),
}

use Call::{Announce, Forward, Rehearse};

/// Attention that takes notes, and whose output is `share` of the queries.
struct Told {
    rehearsal: Option<Rehearsal>,
    share: f64,
    calls: Vec<Call>,
    /// Queries that were told ahead of time, layer by layer.
    expected: Vec<Vec<f32>>,
}

impl Attention for Told {
    fn forward(
        &mut self,
        layer: usize,
        _: usize,
        q: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> AttentionResult {
        self.calls.push(Forward(layer));
        Ok((q.flatten_from(1)? * self.share)?)
    }

    fn rehearses(&self, _: usize, _: usize) -> Option<Rehearsal> {
        self.rehearsal
    }

    fn announce(&mut self, layer: usize, _: usize, _: &Tensor) -> AttentionResult<()> {
        self.calls.push(Announce(layer));
        Ok(())
    }

    fn rehearse(&mut self, layer: usize, _: usize, q: &Tensor) -> AttentionResult<()> {
        self.calls.push(Rehearse(layer));
        self.expected.push(q.flatten_all()?.to_vec1()?);
        Ok(())
    }
}

/// Runs `tokens` through three layers.
fn told(rehearsal: Option<Rehearsal>, share: f64, tokens: &[u32]) -> Told {
    let model = load(Tiny { layers: 3, ..llama() }.write().path());
    let mut attention = Told { rehearsal, share, calls: vec![], expected: vec![] };
    model.forward(tokens, 0, &mut attention, Logits::Last).unwrap();
    attention
}

#[test]
fn early_queries_are_told_before_the_attention_and_late_ones_behind_it() {
    let early = told(Some(Rehearsal::Early), 1.0, &[7]);
    let next = [Announce(1), Rehearse(2), Forward(1)];
    let calls = [&[Announce(0), Rehearse(1), Forward(0)], &next, &[Announce(2), Forward(2)][..]];
    assert_eq!(early.calls, calls.concat());

    let late = told(Some(Rehearsal::Late), 1.0, &[7]);
    let next = [Announce(1), Forward(1), Rehearse(2)];
    let calls = [&[Announce(0), Forward(0), Rehearse(1)], &next, &[Announce(2), Forward(2)][..]];
    assert_eq!(late.calls, calls.concat());

    // They see the same stream if the attention adds nothing to it.
    assert_ne!(early.expected, late.expected);
    let [early, late] = [Rehearsal::Early, Rehearsal::Late].map(|it| told(Some(it), 0.0, &[7]));
    assert_eq!(early.expected, late.expected);
}

#[test]
fn nothing_is_told_unasked_or_of_several_tokens() {
    let unasked = told(None, 1.0, &[7]);
    assert_eq!(unasked.calls.iter().filter(|call| matches!(call, Rehearse(_))).count(), 0);
    for rehearsal in [Rehearsal::Early, Rehearsal::Late] {
        let several = told(Some(rehearsal), 1.0, &[7, 8]);
        assert_eq!(several.calls, [Forward(0), Forward(1), Forward(2)]);
    }
}
