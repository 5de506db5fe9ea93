//! What a GPU itself counts on its link, beside what the run has counted.

use hindsight_protocol::profile::{Activity, Event};
use serde::Serialize;

use super::link::rate;
use super::microseconds;
use super::summary::StepFigures;

/// Over how long the driver's management library averages, in nanoseconds.
const WINDOW: u64 = 20_000_000;

/// What the counters said at one moment: means over the 20 ms before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CounterSample {
    /// When they were read, in nanoseconds of the clock that all processes share.
    pub at_ns: u64,
    /// To the device, in 10^9 bytes per second.
    pub to_device_gb_per_s: f64,
    /// To the host.
    pub to_host_gb_per_s: f64,
}

/// What the counters said during a run.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// In the order of time.
    pub samples: Vec<CounterSample>,
    /// Why there are none.
    pub absent: Option<String>,
}

/// Counters of a GPU beside the bytes that the run counted, in decode: `counters` in the summary's `link`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CounterFigures {
    /// Whose counters they are; none where there are none.
    pub source: Option<&'static str>,
    /// Why there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub absent: Option<String>,
    /// How often they were read during decode.
    pub samples: usize,
    /// Their mean, in 10^9 bytes per second.
    pub to_device_gb_per_s: Option<f64>,
    /// What the run counted in the same times.
    pub counted_to_device_gb_per_s: Option<f64>,
    /// Their mean.
    pub to_host_gb_per_s: Option<f64>,
    /// What the run counted in the same times.
    pub counted_to_host_gb_per_s: Option<f64>,
}

impl Counters {
    /// Those that are not there, for a reason.
    #[must_use]
    pub fn absent(why: impl Into<String>) -> Self {
        Self { samples: Vec::new(), absent: Some(why.into()) }
    }

    /// Each sample with the position of the step that was taken in the middle of its time.
    pub(super) fn by_position<'a>(
        &'a self,
        steps: &'a [StepFigures],
    ) -> impl Iterator<Item = (u64, CounterSample)> + 'a {
        self.samples.iter().filter_map(|&sample| {
            let middle = sample.at_ns.saturating_sub(WINDOW / 2);
            let step = steps.iter().find(|step| step.times.contains(&middle))?;
            Some((step.position, sample))
        })
    }

    pub(super) fn figures(&self, steps: &[StepFigures], on_gpu: &[Event]) -> CounterFigures {
        let samples: Vec<CounterSample> =
            self.by_position(steps).map(|(_, sample)| sample).collect();
        let mean = |of: &dyn Fn(&CounterSample) -> f64| {
            (!samples.is_empty())
                .then(|| samples.iter().map(of).sum::<f64>() / samples.len() as f64)
        };
        let counted = |activities: &'static [Activity]| {
            let events = || on_gpu.iter().filter(|event| activities.contains(&event.activity));
            mean(&|sample| {
                let window = sample.at_ns.saturating_sub(WINDOW)..sample.at_ns;
                let bytes: f64 = events().map(|event| bytes_within(event, &window)).sum();
                bytes / microseconds(WINDOW) / 1e3
            })
        };
        CounterFigures {
            source: self.absent.is_none().then_some("NVML"),
            absent: self.absent.clone(),
            samples: samples.len(),
            to_device_gb_per_s: mean(&|sample| sample.to_device_gb_per_s),
            counted_to_device_gb_per_s: counted(&[Activity::GpuGather, Activity::GpuCopy]),
            to_host_gb_per_s: mean(&|sample| sample.to_host_gb_per_s),
            counted_to_host_gb_per_s: counted(&[Activity::GpuAppend]),
        }
    }
}

/// The part of an event's bytes that travelled within a window, if they travel evenly.
fn bytes_within(event: &Event, window: &std::ops::Range<u64>) -> f64 {
    let from = event.began_ns.max(window.start);
    let to = event.ended_ns.min(window.end);
    let all = event.nanoseconds().max(1);
    let rate = rate(event.detail.bytes, microseconds(all)).unwrap_or(0.0) * 1e3;
    rate * microseconds(to.saturating_sub(from))
}

#[cfg(test)]
mod tests {
    use hindsight_protocol::profile::Detail;

    use super::*;

    const MS: u64 = 1_000_000;

    fn step(position: u64, times: std::ops::Range<u64>) -> StepFigures {
        StepFigures { position, times, ..StepFigures::default() }
    }

    #[test]
    fn counters_are_set_beside_what_was_counted_in_the_same_time() {
        let steps = [step(100, 0..30 * MS), step(101, 30 * MS..60 * MS)];
        let sample =
            |at_ns| CounterSample { at_ns, to_device_gb_per_s: 0.5, to_host_gb_per_s: 0.1 };
        // The last of them lies after the last step.
        let counters = Counters {
            samples: vec![sample(20 * MS), sample(50 * MS), sample(90 * MS)],
            absent: None,
        };
        let gather = |began_ns, ended_ns, bytes| Event {
            activity: Activity::GpuGather,
            began_ns,
            ended_ns,
            detail: Detail { bytes, ..Detail::default() },
        };
        // 10 MB within the first window, half of 10 MB within the second.
        let on_gpu = [gather(5 * MS, 15 * MS, 10_000_000), gather(45 * MS, 55 * MS, 10_000_000)];
        let positions: Vec<u64> = counters.by_position(&steps).map(|(at, _)| at).collect();
        assert_eq!(positions, [100, 101]);
        let figures = counters.figures(&steps, &on_gpu);
        assert_eq!((figures.source, figures.samples), (Some("NVML"), 2));
        let counted = figures.counted_to_device_gb_per_s.unwrap();
        assert!((counted - (0.5 + 0.25) / 2.0).abs() < 1e-9, "{counted}");
        assert_eq!(figures.counted_to_host_gb_per_s, Some(0.0));
        assert!((figures.to_device_gb_per_s.unwrap() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn where_there_are_none_the_reason_is_said() {
        let figures = Counters::absent("the CPU has none").figures(&[step(1, 0..MS)], &[]);
        assert_eq!(figures.absent.as_deref(), Some("the CPU has none"));
        assert_eq!((figures.source, figures.to_device_gb_per_s), (None, None));
    }
}
