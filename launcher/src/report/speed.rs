//! Measured speeds of decode, prefill and messages.

use std::fmt::Write;
use std::ops::{AddAssign, Div};

use hindsight_protocol::records::AttentionPolicy;
use serde::Serialize;

use crate::metrics::Sample;
use crate::plan::MeasuredOn;

/// What a decode step's time goes to, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct StepTimes {
    /// Products with weights, norms and everything else that no other stage is.
    pub projections: f64,
    /// Attention, and storing the new key and value.
    pub attention: f64,
    /// The indexer's selections, on a core of its own: all but `waiting` overlaps other stages.
    pub selection: f64,
    /// The worker's wait for selections.
    pub waiting: f64,
    /// Choosing the next token.
    pub sampling: f64,
    /// The whole step; `selection` is not a part of it.
    pub total: f64,
}

impl StepTimes {
    /// The times of the decode steps by which counters have grown, all together.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds become means of a few digits")]
    pub fn of(grown: &Sample) -> Self {
        let us = |ns: u64| ns as f64 / 1e3;
        let (attention, waiting) = (us(grown.attention_ns), us(grown.waiting_ns));
        let (sampling, total) = (us(grown.sampling_ns), us(grown.decode_ns));
        Self {
            projections: total - attention - waiting - sampling,
            attention,
            selection: us(grown.select_ns),
            waiting,
            sampling,
            total,
        }
    }

    fn each(self, other: Self, join: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            projections: join(self.projections, other.projections),
            attention: join(self.attention, other.attention),
            selection: join(self.selection, other.selection),
            waiting: join(self.waiting, other.waiting),
            sampling: join(self.sampling, other.sampling),
            total: join(self.total, other.total),
        }
    }
}

impl AddAssign for StepTimes {
    fn add_assign(&mut self, other: Self) {
        *self = self.each(other, |a, b| a + b);
    }
}

impl Div<f64> for StepTimes {
    type Output = Self;

    fn div(self, count: f64) -> Self {
        self.each(self, |time, _| time / count)
    }
}

/// Decode steps under one attention after one context.
#[derive(Debug, Clone, Serialize)]
pub struct DecodeRow {
    /// The model, as the user named it.
    pub model: String,
    /// The device.
    #[serde(flatten)]
    pub measured_on: MeasuredOn,
    /// The attention.
    pub attention: AttentionPolicy,
    /// Tokens before the first step.
    pub depth: usize,
    /// Whether keys and values of a shorter text were repeated up to the depth.
    pub synthetic_kv: bool,
    /// Threads of decode, that on the indexer's core among them.
    pub threads: usize,
    /// Tokens decoded in each repeat.
    pub tokens: u32,
    /// How often it was measured.
    pub repeats: u32,
    /// Median over the repeats.
    pub tokens_per_s: f64,
    /// The slowest repeat.
    pub tokens_per_s_min: f64,
    /// The fastest repeat.
    pub tokens_per_s_max: f64,
    /// Means over all steps of all repeats.
    pub step_us: StepTimes,
    /// Bytes that would travel to and from a device of its own for each token.
    pub link_bytes_per_token: f64,
}

/// Reading prompts of one length under one attention.
#[derive(Debug, Clone, Serialize)]
pub struct PrefillRow {
    /// The model, as the user named it.
    pub model: String,
    /// The device.
    #[serde(flatten)]
    pub measured_on: MeasuredOn,
    /// The attention of the decode steps that would follow.
    pub attention: AttentionPolicy,
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Threads of prefill.
    pub threads: usize,
    /// How often it was measured.
    pub repeats: u32,
    /// Median over the repeats.
    pub tokens_per_s: f64,
    /// The slowest repeat.
    pub tokens_per_s_min: f64,
    /// The fastest repeat.
    pub tokens_per_s_max: f64,
}

/// Messages there and back by one means.
#[derive(Debug, Clone, Serialize)]
pub struct IpcRow {
    /// How they travel.
    pub transport: &'static str,
    /// Bytes of a message.
    pub message_bytes: usize,
    /// Messages that were timed.
    pub messages: usize,
    /// The middle round trip, in microseconds.
    pub round_trip_us_p50: f64,
    /// The round trip that 99 of 100 do not exceed.
    pub round_trip_us_p99: f64,
}

/// One line for each depth and attention, under a heading.
#[must_use]
pub fn decode_table(rows: &[DecodeRow]) -> String {
    let mut out = format!(
        "{:>9} {:>9} {:>8} {:>15} {:>9} {:>11} {:>9} {:>9} {:>9} {:>9} {:>10}\n",
        "depth",
        "attention",
        "tokens/s",
        "(least-most)",
        "step us",
        "projections",
        "attention",
        "waiting",
        "selection",
        "sampling",
        "link KiB",
    );
    for row in rows {
        let StepTimes { projections, attention, selection, waiting, sampling, total } = row.step_us;
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{:>8}{} {:>9} {:>8.1} {:>15} {total:>9.0} {projections:>11.0} {attention:>9.0} {waiting:>9.0} \
             {selection:>9.0} {sampling:>9.0} {:>10.0}",
            row.depth,
            if row.synthetic_kv { '*' } else { ' ' },
            row.attention.to_string(),
            row.tokens_per_s,
            format!("({:.1}-{:.1})", row.tokens_per_s_min, row.tokens_per_s_max),
            row.link_bytes_per_token / 1024.0,
        );
    }
    if rows.iter().any(|row| row.synthetic_kv) {
        out.push_str("* synthetic: keys and values of a shorter text, repeated\n");
    }
    out
}

/// One line for each length and attention, under a heading.
#[must_use]
pub fn prefill_table(rows: &[PrefillRow]) -> String {
    let mut out =
        format!("{:>8} {:>9} {:>8} {:>15}\n", "tokens", "attention", "tokens/s", "(least-most)");
    for row in rows {
        let _ = writeln!(
            out,
            "{:>8} {:>9} {:>8.1} {:>15}",
            row.tokens,
            row.attention.to_string(),
            row.tokens_per_s,
            format!("({:.1}-{:.1})", row.tokens_per_s_min, row.tokens_per_s_max),
        );
    }
    out
}

/// One line for each means, under a heading.
#[must_use]
pub fn ipc_table(rows: &[IpcRow]) -> String {
    let mut out = format!("{:>12} {:>9} {:>9}\n", "transport", "p50 us", "p99 us");
    for row in rows {
        let _ = writeln!(
            out,
            "{:>12} {:>9.2} {:>9.2}",
            row.transport, row.round_trip_us_p50, row.round_trip_us_p99
        );
    }
    out
}
