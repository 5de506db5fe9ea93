//! What a GPU did beside the host: its streams, and how much of the copying was hidden behind computing.

use std::fmt;

use hindsight_protocol::profile::{Activity, Event, GpuStream};
use serde::Serialize;

use super::microseconds;

/// The GPU of a profiled run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProfiledGpu {
    /// What it calls itself.
    pub name: String,
    /// The link that the mock driver modelled: no time was measured then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modelled_link: Option<String>,
}

impl fmt::Display for ProfiledGpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.modelled_link {
            Some(link) => write!(f, "; times are modelled, link {link}"),
            None => Ok(()),
        }
    }
}

/// What a GPU did: `gpu` in `summary.json`.
#[derive(Debug, Clone, Serialize)]
pub struct GpuFigures {
    /// `name`, and `modelled_link` if all times below are modelled.
    #[serde(flatten)]
    pub gpu: ProfiledGpu,
    /// While the prompt was read.
    pub prefill: StreamFigures,
    /// In decode steps.
    pub decode: StreamFigures,
}

/// The streams of a GPU over a part of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct StreamFigures {
    /// Bytes of missing blocks that were gathered on the copy stream.
    pub gathered_bytes: u64,
    /// Bytes of keys and values that were copied on it to pass through.
    pub passed_bytes: u64,
    /// Bytes of new keys and values that the compute stream stored in host memory.
    pub appended_bytes: u64,
    /// How long the copy stream was at work, in microseconds.
    pub copy_busy_us: f64,
    /// How long the compute stream stored and attended, in microseconds; the model's projections are not counted.
    pub compute_busy_us: f64,
    /// How long both were at once, in microseconds.
    pub overlap_us: f64,
    /// `overlap_us` over `copy_busy_us`: the share of copying that was hidden; none if nothing was copied.
    pub overlap_share: Option<f64>,
}

impl StreamFigures {
    pub(super) fn of<'e>(events: impl Iterator<Item = &'e Event> + Clone) -> Self {
        let bytes = |activity: Activity| {
            let of_activity = events.clone().filter(move |event| event.activity == activity);
            of_activity.map(|event| event.detail.bytes).sum()
        };
        let busy = |stream: GpuStream| {
            let on_stream =
                events.clone().filter(move |event| event.activity.gpu_stream() == Some(stream));
            disjoint(on_stream.map(|event| (event.began_ns, event.ended_ns)).collect())
        };
        let (copy, compute) = (busy(GpuStream::Copy), busy(GpuStream::Compute));
        let copy_busy_us = microseconds(length(&copy));
        let overlap_us = microseconds(overlap(&copy, &compute));
        Self {
            gathered_bytes: bytes(Activity::GpuGather),
            passed_bytes: bytes(Activity::GpuCopy),
            appended_bytes: bytes(Activity::GpuAppend),
            copy_busy_us,
            compute_busy_us: microseconds(length(&compute)),
            overlap_us,
            overlap_share: (copy_busy_us > 0.0).then(|| overlap_us / copy_busy_us),
        }
    }
}

/// From when to when.
type Interval = (u64, u64);

/// The same times in ascending intervals of which none touches another.
fn disjoint(mut intervals: Vec<Interval>) -> Vec<Interval> {
    intervals.sort_unstable();
    let mut merged: Vec<Interval> = Vec::with_capacity(intervals.len());
    for (from, to) in intervals {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    merged
}

fn length(intervals: &[Interval]) -> u64 {
    intervals.iter().map(|(from, to)| to - from).sum()
}

/// How long both of two ascending lists of disjoint intervals last at once.
fn overlap(mut a: &[Interval], mut b: &[Interval]) -> u64 {
    let mut both = 0;
    while let (Some(first), Some(second)) = (a.first(), b.first()) {
        both += first.1.min(second.1).saturating_sub(first.0.max(second.0));
        if first.1 <= second.1 {
            a = &a[1..];
        } else {
            b = &b[1..];
        }
    }
    both
}

#[cfg(test)]
mod tests {
    use hindsight_protocol::profile::Detail;

    use super::*;

    fn event(activity: Activity, began_ns: u64, ended_ns: u64, bytes: u64) -> Event {
        Event { activity, began_ns, ended_ns, detail: Detail { bytes, ..Detail::default() } }
    }

    #[test]
    fn the_share_of_hidden_copying_is_that_of_time_beside_compute() {
        let events = [
            event(Activity::GpuAppend, 0, 2_000, 24),
            event(Activity::GpuGather, 1_000, 5_000, 4096),
            event(Activity::GpuAttendHits, 2_000, 4_000, 0),
            event(Activity::GpuAttendMisses, 5_000, 6_000, 0),
            event(Activity::GpuCopy, 5_500, 9_500, 512),
        ];
        let figures = StreamFigures::of(events.iter());
        let expected = StreamFigures {
            gathered_bytes: 4096,
            passed_bytes: 512,
            appended_bytes: 24,
            copy_busy_us: 8.0,
            compute_busy_us: 5.0,
            overlap_us: 3.5,
            overlap_share: Some(3.5 / 8.0),
        };
        assert_eq!(figures, expected);
    }

    #[test]
    fn times_that_touch_count_once() {
        assert_eq!(disjoint(vec![(5, 7), (0, 2), (1, 4), (4, 5)]), [(0, 7)]);
        assert_eq!(overlap(&[(0, 3), (5, 9)], &[(2, 6), (8, 20)]), 1 + 1 + 1);
        assert_eq!(StreamFigures::of([].iter()), StreamFigures::default());
    }
}
