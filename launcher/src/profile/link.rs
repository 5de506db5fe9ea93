//! How much of the link a run used, of what it carries at most and beside what the GPU's own counters say.

use hindsight_protocol::profile::Event;
use serde::Serialize;

use super::counters::{CounterFigures, Counters};
use super::summary::StepFigures;
use crate::link::{LinkLimit, LinkReport};

/// The link of a profiled run: `link` in `summary.json`.
#[derive(Debug, Clone, Serialize)]
pub struct LinkFigures {
    /// What was measured, and how.
    pub measured: String,
    /// What the link carries at most, measured when the run had ended; none where it could not be measured.
    pub limit: Option<LinkLimit>,
    /// Why there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unmeasured: Option<String>,
    /// Bytes to the device over the time of all decode steps, as a share of the limit.
    pub to_device_share: Option<f64>,
    /// Bytes to the host over the time of all decode steps, as a share of the limit.
    pub to_host_share: Option<f64>,
    /// Bandwidth of the GPU's copy stream while it was at work in decode; none if nothing was copied.
    pub copying_gb_per_s: Option<f64>,
    /// The same as a share of the limit.
    pub copying_share: Option<f64>,
    /// What the GPU's own counters say.
    pub counters: CounterFigures,
}

/// What a run and its link are judged by.
#[derive(Debug, Clone)]
pub struct LinkOfRun {
    /// The link, or why it could not be measured.
    pub report: Result<LinkReport, String>,
    /// What the GPU's own counters said during the run.
    pub counters: Counters,
}

impl LinkOfRun {
    /// What the link carries at most.
    pub(super) fn limit(&self) -> Option<LinkLimit> {
        self.report.as_ref().ok().map(|report| report.limit)
    }

    /// The figures: `steps` have their bytes and times, `copied` is bytes and busy microseconds of a GPU's copy stream.
    pub(super) fn figures(
        &self,
        steps: &[StepFigures],
        copied: Option<(u64, f64)>,
        on_gpu: &[Event],
    ) -> LinkFigures {
        let limit = self.limit();
        let us: f64 = steps.iter().map(|step| step.step_us).sum();
        let bytes = |of: fn(&StepFigures) -> u64| steps.iter().map(of).sum::<u64>();
        let share = |bytes, limit: Option<f64>| share_of(rate(bytes, us)?, limit?);
        let copying_gb_per_s = copied.and_then(|(bytes, us)| rate(bytes, us));
        LinkFigures {
            measured: self.report.as_ref().map_or_else(Clone::clone, LinkReport::title),
            unmeasured: self.report.as_ref().err().cloned(),
            to_device_share: share(
                bytes(|step| step.to_device_bytes),
                limit.map(|limit| limit.to_device_gb_per_s),
            ),
            to_host_share: share(
                bytes(|step| step.to_host_bytes),
                limit.map(|limit| limit.to_host_gb_per_s),
            ),
            copying_share: copying_gb_per_s
                .zip(limit)
                .and_then(|(rate, limit)| share_of(rate, limit.to_device_gb_per_s)),
            copying_gb_per_s,
            counters: self.counters.figures(steps, on_gpu),
            limit,
        }
    }
}

/// Bytes over microseconds in 10^9 bytes per second.
#[expect(clippy::cast_precision_loss, reason = "bytes become rates of a few digits")]
pub(super) fn rate(bytes: u64, us: f64) -> Option<f64> {
    (us > 0.0).then(|| bytes as f64 / us / 1e3)
}

/// A rate as a share of a limit.
pub(super) fn share_of(rate: f64, limit: f64) -> Option<f64> {
    (limit > 0.0).then_some(rate / limit)
}
