//! What went on between two looks at an instance.

use std::time::Duration;

use hindsight_protocol::telemetry::Telemetry;
use serde::Serialize;

/// Counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sample {
    prefill_tokens: u64,
    decode_tokens: u64,
    appended_bytes: u64,
    shipped_bytes: u64,
    hits: u64,
    misses: u64,
    selections: u64,
    repairs: u64,
    select_ns: u64,
    decode_ns: u64,
    attention_ns: u64,
    waiting_ns: u64,
    audits: u64,
    audit_recall: f64,
    audit_mass: f64,
}

/// Rates over a stretch of time; what did not happen has no rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Prompt tokens read.
    pub prefill_tokens_per_s: f64,
    /// Tokens decoded.
    pub decode_tokens_per_s: f64,
    /// Mean decode step.
    pub step_us: Option<f64>,
    /// Of it, attention.
    pub attention_us: Option<f64>,
    /// Of it, the wait for selections.
    pub waiting_us: Option<f64>,
    /// Mean selection for a KV head, on the indexer's core.
    pub selection_us: Option<f64>,
    /// Bytes of missing blocks for each token.
    pub shipped_bytes_per_token: Option<f64>,
    /// Bytes of missing blocks and of new keys and values.
    pub link_bytes_per_s: f64,
    /// Selected blocks that the device held.
    pub hit_rate: Option<f64>,
    /// Selections that read more than usual.
    pub repair_rate: Option<f64>,
    /// Share of the exact top-k that audited selections held.
    pub audit_recall: Option<f64>,
    /// Softmax mass of audited selections over that of the exact top-k.
    pub audit_mass: Option<f64>,
}

impl Sample {
    /// The counters now.
    #[must_use]
    pub fn of(telemetry: &Telemetry) -> Self {
        let Telemetry { indexer, worker, .. } = telemetry;
        Self {
            prefill_tokens: worker.prefill_tokens.get(),
            decode_tokens: worker.decode_tokens.get(),
            appended_bytes: worker.appended_bytes.get(),
            shipped_bytes: indexer.shipped_bytes.get(),
            hits: indexer.hit_blocks.get(),
            misses: indexer.miss_blocks.get(),
            selections: indexer.selections.get(),
            repairs: indexer.repairs.get(),
            select_ns: indexer.select_ns.get(),
            decode_ns: worker.decode_ns.get(),
            attention_ns: worker.attention_ns.get(),
            waiting_ns: worker.waiting_ns.get(),
            audits: indexer.audits.get(),
            audit_recall: indexer.audit_recall.get(),
            audit_mass: indexer.audit_mass.get(),
        }
    }

    /// What has happened since an earlier sample, `elapsed` ago.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts become rates of a few digits")]
    pub fn since(&self, earlier: &Self, elapsed: Duration) -> Rates {
        let grown = |field: fn(&Self) -> u64| field(self).saturating_sub(field(earlier)) as f64;
        let per = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let tokens = grown(|sample| sample.decode_tokens);
        let selections = grown(|sample| sample.selections);
        let (hits, misses) = (grown(|sample| sample.hits), grown(|sample| sample.misses));
        let shipped = grown(|sample| sample.shipped_bytes);
        let audits = grown(|sample| sample.audits);
        let us_per_token = |ns: f64| per(ns / 1e3, tokens);
        Rates {
            prefill_tokens_per_s: grown(|sample| sample.prefill_tokens) / seconds,
            decode_tokens_per_s: tokens / seconds,
            step_us: us_per_token(grown(|sample| sample.decode_ns)),
            attention_us: us_per_token(grown(|sample| sample.attention_ns)),
            waiting_us: us_per_token(grown(|sample| sample.waiting_ns)),
            selection_us: per(grown(|sample| sample.select_ns) / 1e3, selections),
            shipped_bytes_per_token: per(shipped, tokens),
            link_bytes_per_s: (shipped + grown(|sample| sample.appended_bytes)) / seconds,
            hit_rate: per(hits, hits + misses),
            repair_rate: per(grown(|sample| sample.repairs), selections),
            audit_recall: per(self.audit_recall - earlier.audit_recall, audits),
            audit_mass: per(self.audit_mass - earlier.audit_mass, audits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_what_has_grown() {
        let earlier = Sample { decode_tokens: 10, hits: 5, misses: 5, ..Sample::default() };
        let now = Sample {
            decode_tokens: 30,
            decode_ns: 2_000_000,
            hits: 14,
            misses: 6,
            shipped_bytes: 4000,
            appended_bytes: 1000,
            audits: 2,
            audit_mass: 1.5,
            ..earlier
        };
        let rates = now.since(&earlier, Duration::from_millis(500));
        assert_eq!(rates.decode_tokens_per_s, 40.0);
        assert_eq!(rates.step_us, Some(100.0));
        assert_eq!(rates.hit_rate, Some(0.9));
        assert_eq!(rates.shipped_bytes_per_token, Some(200.0));
        assert_eq!(rates.link_bytes_per_s, 10_000.0);
        assert_eq!((rates.audit_mass, rates.repair_rate), (Some(0.75), None));
    }

    #[test]
    fn nothing_that_happens_has_no_rate() {
        let sample = Sample::default();
        assert_eq!(sample.since(&sample, Duration::ZERO), Rates::default());
    }
}
