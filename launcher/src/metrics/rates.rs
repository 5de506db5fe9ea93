//! What went on between two looks at an instance.

use std::time::Duration;

use hindsight_protocol::telemetry::Telemetry;
use serde::Serialize;

/// Counters at one moment, or what they have grown by.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sample {
    prefill_tokens: u64,
    decode_tokens: u64,
    appended_bytes: u64,
    shipped_bytes: u64,
    to_gpu_bytes: u64,
    from_gpu_bytes: u64,
    staged_bytes: u64,
    hits: u64,
    misses: u64,
    evictions: u64,
    selections: u64,
    repairs: u64,
    pub(crate) select_ns: u64,
    pub(crate) decode_ns: u64,
    pub(crate) attention_ns: u64,
    pub(crate) waiting_ns: u64,
    pub(crate) sampling_ns: u64,
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
    /// Bytes that travelled to a GPU, whatever they were.
    pub to_gpu_bytes_per_s: f64,
    /// Bytes that travelled from a GPU.
    pub from_gpu_bytes_per_s: f64,
    /// Bytes that the worker copied for a GPU, as the KV cache could not be page-locked.
    pub staged_bytes_per_s: f64,
    /// Selected blocks that the device held.
    pub hit_rate: Option<f64>,
    /// Blocks of the device's cache that made room for others, for each token.
    pub evictions_per_token: Option<f64>,
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
            to_gpu_bytes: worker.miss_bytes.get()
                + worker.passing_bytes.get()
                + worker.list_bytes.get()
                + worker.tensors_in_bytes.get(),
            from_gpu_bytes: worker.to_host_bytes.get() + worker.tensors_out_bytes.get(),
            staged_bytes: worker.staged_bytes.get(),
            hits: indexer.hit_blocks.get(),
            misses: indexer.miss_blocks.get(),
            evictions: indexer.evictions.get(),
            selections: indexer.selections.get(),
            repairs: indexer.repairs.get(),
            select_ns: indexer.select_ns.get(),
            decode_ns: worker.decode_ns.get(),
            attention_ns: worker.attention_ns.get(),
            waiting_ns: worker.waiting_ns.get(),
            sampling_ns: worker.sampling_ns.get(),
            audits: indexer.audits.get(),
            audit_recall: indexer.audit_recall.get(),
            audit_mass: indexer.audit_mass.get(),
        }
    }

    /// What the counters have grown by since an earlier sample.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let grown = |field: fn(&Self) -> u64| field(self).saturating_sub(field(earlier));
        Self {
            prefill_tokens: grown(|sample| sample.prefill_tokens),
            decode_tokens: grown(|sample| sample.decode_tokens),
            appended_bytes: grown(|sample| sample.appended_bytes),
            shipped_bytes: grown(|sample| sample.shipped_bytes),
            to_gpu_bytes: grown(|sample| sample.to_gpu_bytes),
            from_gpu_bytes: grown(|sample| sample.from_gpu_bytes),
            staged_bytes: grown(|sample| sample.staged_bytes),
            hits: grown(|sample| sample.hits),
            misses: grown(|sample| sample.misses),
            evictions: grown(|sample| sample.evictions),
            selections: grown(|sample| sample.selections),
            repairs: grown(|sample| sample.repairs),
            select_ns: grown(|sample| sample.select_ns),
            decode_ns: grown(|sample| sample.decode_ns),
            attention_ns: grown(|sample| sample.attention_ns),
            waiting_ns: grown(|sample| sample.waiting_ns),
            sampling_ns: grown(|sample| sample.sampling_ns),
            audits: grown(|sample| sample.audits),
            audit_recall: self.audit_recall - earlier.audit_recall,
            audit_mass: self.audit_mass - earlier.audit_mass,
        }
    }

    /// The rates of what counters have grown by in the time `elapsed`.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts become rates of a few digits")]
    pub fn rates(&self, elapsed: Duration) -> Rates {
        let per = |part: f64, whole: u64| (whole > 0).then(|| part / whole as f64);
        let us_per_token = |ns: u64| per(ns as f64 / 1e3, self.decode_tokens);
        let seconds = elapsed.as_secs_f64().max(1e-9);
        Rates {
            prefill_tokens_per_s: self.prefill_tokens as f64 / seconds,
            decode_tokens_per_s: self.decode_tokens as f64 / seconds,
            step_us: us_per_token(self.decode_ns),
            attention_us: us_per_token(self.attention_ns),
            waiting_us: us_per_token(self.waiting_ns),
            selection_us: per(self.select_ns as f64 / 1e3, self.selections),
            shipped_bytes_per_token: per(self.shipped_bytes as f64, self.decode_tokens),
            link_bytes_per_s: (self.shipped_bytes + self.appended_bytes) as f64 / seconds,
            to_gpu_bytes_per_s: self.to_gpu_bytes as f64 / seconds,
            from_gpu_bytes_per_s: self.from_gpu_bytes as f64 / seconds,
            staged_bytes_per_s: self.staged_bytes as f64 / seconds,
            hit_rate: per(self.hits as f64, self.hits + self.misses),
            evictions_per_token: per(self.evictions as f64, self.decode_tokens),
            repair_rate: per(self.repairs as f64, self.selections),
            audit_recall: per(self.audit_recall, self.audits),
            audit_mass: per(self.audit_mass, self.audits),
        }
    }
}

#[cfg(test)]
mod tests {
    use hindsight_protocol::telemetry::TelemetryPage;

    use super::*;

    #[test]
    fn rates_are_of_what_has_grown() {
        let earlier = Sample { decode_tokens: 10, hits: 5, misses: 5, ..Sample::default() };
        let now = Sample {
            decode_tokens: 30,
            decode_ns: 2_000_000,
            hits: 14,
            misses: 6,
            evictions: 40,
            shipped_bytes: 4000,
            appended_bytes: 1000,
            audits: 2,
            audit_mass: 1.5,
            ..earlier
        };
        let rates = now.since(&earlier).rates(Duration::from_millis(500));
        assert_eq!(rates.decode_tokens_per_s, 40.0);
        assert_eq!(rates.step_us, Some(100.0));
        assert_eq!(rates.hit_rate, Some(0.9));
        assert_eq!(rates.shipped_bytes_per_token, Some(200.0));
        assert_eq!(rates.evictions_per_token, Some(2.0));
        assert_eq!(rates.link_bytes_per_s, 10_000.0);
        assert_eq!((rates.audit_mass, rates.repair_rate), (Some(0.75), None));
    }

    #[test]
    fn bytes_over_a_gpus_link_are_those_of_every_reason() {
        let name = format!("/hindsight-test-rates-{}", std::process::id());
        let page = TelemetryPage::create(&name).unwrap();
        let earlier = Sample::of(&page);
        let worker = &page.worker;
        let to_gpu = [
            &worker.miss_bytes,
            &worker.passing_bytes,
            &worker.list_bytes,
            &worker.tensors_in_bytes,
        ];
        (0..).zip(to_gpu).for_each(|(place, counter)| counter.add(1 << place));
        worker.to_host_bytes.add(16);
        worker.tensors_out_bytes.add(32);
        worker.staged_bytes.add(64);
        let rates = Sample::of(&page).since(&earlier).rates(Duration::from_secs(2));
        assert_eq!((rates.to_gpu_bytes_per_s, rates.from_gpu_bytes_per_s), (7.5, 24.0));
        assert_eq!(rates.staged_bytes_per_s, 32.0);
    }

    #[test]
    fn nothing_that_happens_has_no_rate() {
        let sample = Sample::default();
        assert_eq!(sample.since(&sample).rates(Duration::ZERO), Rates::default());
    }
}
