//! The figures of a profile.

use std::collections::BTreeMap;
use std::ops::Range;

use hindsight_protocol::profile::{Activity, Event};
use hindsight_protocol::records::AttentionPolicy;
use serde::Serialize;

use super::link::{rate, share_of};
use super::{
    GpuFigures, LinkFigures, LinkOfRun, ProfiledRun, Recorded, StreamFigures, microseconds,
};
use crate::report::spread::Percentiles;

/// Bytes by why they travelled, or would have with a device of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Selected blocks that the device lacked; with full attention, all keys and values.
    pub miss: u64,
    /// The part of `miss` that steps asked for whose query had drifted.
    pub repair: u64,
    /// Keys and values of new tokens, on their way to host memory.
    pub append: u64,
    /// Queries, on their way to the indexer.
    pub query: u64,
    /// Selected blocks that the device held: bytes that did not travel.
    pub hit: u64,
    /// Keys that audits read in host memory: bytes that did not travel.
    pub audit: u64,
}

impl Traffic {
    /// Everything that travelled.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.miss + self.append + self.query
    }

    fn add(&mut self, other: Self) {
        self.miss += other.miss;
        self.repair += other.repair;
        self.append += other.append;
        self.query += other.query;
        self.hit += other.hit;
        self.audit += other.audit;
    }
}

/// Which way bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// From host memory to the device.
    ToDevice,
    /// From the device to host memory.
    ToHost,
    /// Nowhere: they were read where they lay.
    None,
}

/// Bytes of a session that had one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ReasonFigures {
    /// The session; a run has one.
    pub session: u32,
    /// Why.
    pub reason: &'static str,
    /// Which way.
    pub direction: Way,
    /// How many.
    pub bytes: u64,
}

/// One decode step.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StepFigures {
    /// Position of the token.
    pub position: u64,
    /// From when to when, in nanoseconds of the clock that all processes share.
    #[serde(skip)]
    pub times: Range<u64>,
    /// The whole step.
    pub step_us: f64,
    /// The worker's wait for selections.
    pub waiting_us: f64,
    /// The worker's attention.
    pub attention_us: f64,
    /// The indexer's selections.
    pub selection_us: f64,
    /// Bytes by reason.
    pub bytes: Traffic,
    /// Bytes to the device; on a GPU those that its streams carried.
    pub to_device_bytes: u64,
    /// Bytes to the host.
    pub to_host_bytes: u64,
    /// Bytes to the device over the step's time, as a share of what the link carries at most.
    pub link_to_device_share: Option<f64>,
    /// Bytes to the host over the step's time, as a share of what the link carries at most.
    pub link_to_host_share: Option<f64>,
    /// What streaming all keys and values would have taken.
    pub full_streaming_bytes: u64,
}

/// One layer, over all steps.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct LayerFigures {
    /// The layer.
    pub layer: u32,
    /// The worker's wait for selections.
    pub waiting_us: f64,
    /// The indexer's selections.
    pub selection_us: f64,
    /// Bytes by reason.
    pub bytes: Traffic,
    /// Bytes of the prompt's keys and values.
    pub prefill_bytes: u64,
}

/// All figures of a profile.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// What was run.
    #[serde(flatten)]
    pub run: ProfiledRun,
    /// Whether no real link was travelled: the device was the CPU, or the link was modelled.
    pub modelled_link: bool,
    /// What the GPU did; none if the device was the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuFigures>,
    /// Everything that was counted, by session, reason and direction.
    pub traffic: Vec<ReasonFigures>,
    /// How much of the link was used.
    pub link: LinkFigures,
    /// Bytes of the prompt's keys and values, on their way to host memory.
    pub prefill_bytes: u64,
    /// Bytes by reason, over all decode steps.
    pub decode_bytes: Traffic,
    /// All that travelled in decode: missing blocks, new keys and values, and queries.
    pub decode_total_bytes: u64,
    /// What streaming all keys and values would have taken, over all decode steps.
    pub full_streaming_bytes: u64,
    /// All bytes of decode over what streaming all keys and values would have taken.
    pub share_of_full_streaming: f64,
    /// Selected blocks that the device held already; none where nothing was selected.
    pub hit_rate: Option<f64>,
    /// Decode steps.
    pub step_us: Option<Percentiles>,
    /// One KV head's selection.
    pub selection_us: Option<Percentiles>,
    /// The worker's wait for one KV head's selection.
    pub waiting_us: Option<Percentiles>,
    /// Step by step.
    pub steps: Vec<StepFigures>,
    /// Layer by layer.
    pub layers: Vec<LayerFigures>,
}

impl Summary {
    pub(super) fn new(run: ProfiledRun, recorded: &Recorded, link: &LinkOfRun) -> Self {
        let Recorded { worker, indexer, gpu: on_gpu } = recorded;
        let mut steps: BTreeMap<u64, StepFigures> = BTreeMap::new();
        let mut layers: BTreeMap<u32, LayerFigures> = BTreeMap::new();
        for event in worker.iter().filter(|event| event.activity == Activity::Step) {
            let position = event.detail.position;
            let full_streaming_bytes = (position + 1) * run.token_bytes;
            let step = StepFigures {
                position,
                times: event.began_ns..event.ended_ns,
                step_us: microseconds(event.nanoseconds()),
                full_streaming_bytes,
                ..StepFigures::default()
            };
            steps.insert(position, step);
        }
        for event in worker.iter().chain(indexer) {
            let (bytes, us) = (traffic(event, run.block_bytes), microseconds(event.nanoseconds()));
            let Some(step) = steps.get_mut(&event.detail.position) else { continue };
            step.bytes.add(bytes);
            match event.activity {
                Activity::Wait => step.waiting_us += us,
                Activity::Attend => step.attention_us += us,
                Activity::Select => step.selection_us += us,
                _ => {}
            }
            if let Some(layer) = event.detail.layer {
                let figures = layers
                    .entry(layer)
                    .or_insert_with(|| LayerFigures { layer, ..LayerFigures::default() });
                figures.bytes.add(bytes);
                match event.activity {
                    Activity::Wait => figures.waiting_us += us,
                    Activity::Select => figures.selection_us += us,
                    _ => {}
                }
            }
        }
        if run.attention == AttentionPolicy::Full {
            steps.values_mut().for_each(|step| step.bytes.miss = step.full_streaming_bytes);
        }
        let limit = link.limit();
        for step in steps.values_mut() {
            step.to_device_bytes = step.bytes.miss;
            step.to_host_bytes = step.bytes.append + step.bytes.query;
        }
        if run.gpu.is_some() {
            // What really travelled: dense layers do not, the whole text passes through where all of it is attended.
            steps.values_mut().for_each(|step| step.to_device_bytes = 0);
            for event in on_gpu.iter().filter(|event| is_copy(event.activity)) {
                if let Some(step) = steps.get_mut(&event.detail.position) {
                    step.to_device_bytes += event.detail.bytes;
                }
            }
        }
        for step in steps.values_mut() {
            let share = |bytes, limit| share_of(rate(bytes, step.step_us)?, limit);
            step.link_to_device_share =
                limit.and_then(|limit| share(step.to_device_bytes, limit.to_device_gb_per_s));
            step.link_to_host_share =
                limit.and_then(|limit| share(step.to_host_bytes, limit.to_host_gb_per_s));
        }
        let mut decode_bytes = Traffic::default();
        steps.values().for_each(|step| decode_bytes.add(step.bytes));
        let full: u64 = steps.values().map(|step| step.full_streaming_bytes).sum();
        let of = |activity: Activity, events: &[Event]| {
            let of_activity = events.iter().filter(|event| event.activity == activity);
            Percentiles::of(of_activity.map(|event| microseconds(event.nanoseconds())).collect())
        };
        let blocks = |count: fn(&Event) -> u32| {
            indexer.iter().map(|event| u64::from(count(event))).sum::<u64>()
        };
        let hits = blocks(|event| event.detail.hit_blocks);
        let misses = blocks(|event| event.detail.miss_blocks);
        let gpu = run.gpu.clone().map(|gpu| {
            let is_decode = |event: &&Event| steps.contains_key(&event.detail.position);
            let part = |decode: bool| {
                StreamFigures::of(on_gpu.iter().filter(move |event| is_decode(event) == decode))
            };
            GpuFigures { gpu, prefill: part(false), decode: part(true) }
        });
        let prefill_bytes = worker
            .iter()
            .filter(|event| event.activity == Activity::Prefill)
            .map(|event| event.detail.bytes)
            .sum();
        layers.values_mut().for_each(|layer| {
            // Each layer's keys and values are of one size.
            layer.prefill_bytes = prefill_bytes / u64::from(run.layers.max(1));
        });
        let steps: Vec<StepFigures> = steps.into_values().collect();
        let copied = gpu.as_ref().map(|GpuFigures { decode, .. }| {
            (decode.gathered_bytes + decode.passed_bytes, decode.copy_busy_us)
        });
        Self {
            traffic: by_reason(run.weight_bytes, prefill_bytes, &decode_bytes),
            link: link.figures(&steps, copied, on_gpu),
            modelled_link: run.gpu.as_ref().is_none_or(|gpu| gpu.modelled_link.is_some()),
            gpu,
            prefill_bytes,
            full_streaming_bytes: full,
            share_of_full_streaming: ratio(decode_bytes.total(), full).unwrap_or(0.0),
            hit_rate: ratio(hits, hits + misses),
            decode_total_bytes: decode_bytes.total(),
            decode_bytes,
            step_us: of(Activity::Step, worker),
            selection_us: of(Activity::Select, indexer),
            waiting_us: of(Activity::Wait, worker),
            steps,
            layers: layers.into_values().collect(),
            run,
        }
    }
}

/// What an event made travel, in blocks of `block_bytes`.
fn traffic(event: &Event, block_bytes: u64) -> Traffic {
    let mut traffic = Traffic::default();
    let bytes = event.detail.bytes;
    match event.activity {
        Activity::Select => {
            traffic.miss = bytes;
            traffic.repair = if event.detail.repaired { bytes } else { 0 };
            traffic.hit = u64::from(event.detail.hit_blocks) * block_bytes;
        }
        Activity::Append => traffic.append = bytes,
        Activity::Audit => traffic.audit = bytes,
        Activity::Query => traffic.query = bytes,
        _ => {}
    }
    traffic
}

/// Whether bytes travelled to the device.
const fn is_copy(activity: Activity) -> bool {
    matches!(activity, Activity::GpuGather | Activity::GpuCopy)
}

/// Everything that a run made travel, and what it read without that.
fn by_reason(weights: u64, prefill: u64, decode: &Traffic) -> Vec<ReasonFigures> {
    let Traffic { miss, repair, append, query, hit, audit } = *decode;
    let of = |reason, direction, bytes| ReasonFigures { session: 0, reason, direction, bytes };
    vec![
        of("weights", Way::ToDevice, weights),
        of("prefill", Way::ToHost, prefill),
        of("append", Way::ToHost, append),
        of("query", Way::ToHost, query),
        of("miss", Way::ToDevice, miss - repair),
        of("repair", Way::ToDevice, repair),
        of("hit", Way::None, hit),
        of("audit", Way::None, audit),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "counts become ratios of a few digits")]
fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use hindsight_protocol::profile::Detail;

    use hindsight_gpu_worker::device::transfer::HostMemoryKind;
    use hindsight_protocol::device::Device;

    use super::super::{Counters, ProfiledGpu};
    use super::*;
    use crate::link::{Cores, LinkLimit, LinkReport};
    use crate::plan::{ChosenDevice, DeviceWish, MeasuredOn};

    fn event(activity: Activity, began_ns: u64, ended_ns: u64, detail: Detail) -> Event {
        Event { activity, began_ns, ended_ns, detail }
    }

    fn run() -> ProfiledRun {
        ProfiledRun {
            model: "tiny".to_owned(),
            attention: AttentionPolicy::Lfps,
            top_k: 8,
            prompt_tokens: 100,
            token_bytes: 64,
            block_bytes: 200,
            layers: 2,
            weight_bytes: 0,
            gpu: None,
        }
    }

    /// A link that carries 2 GB/s to the device and 1 to the host.
    fn link() -> LinkOfRun {
        let cpu = ChosenDevice {
            asked: DeviceWish::Auto,
            used: Device::Cpu,
            name: "CPU".to_owned(),
            gpu: None,
            why: String::new(),
        };
        let limit = LinkLimit {
            bytes: 1 << 20,
            memory: HostMemoryKind::Shared,
            to_device_gb_per_s: 2.0,
            to_host_gb_per_s: 1.0,
            both_gb_per_s: 3.0,
            latency_us: 1.0,
        };
        let report = LinkReport {
            measured_on: MeasuredOn { device: cpu.used, modelled_link: None },
            name: cpu.name,
            cores: Some(Cores { worker: 0, indexer: 1 }),
            block_bytes: 200,
            repeats: 1,
            rows: Vec::new(),
            limit,
            left_out: Vec::new(),
            notes: Vec::new(),
        };
        LinkOfRun { report: Ok(report), counters: Counters::absent("no GPU") }
    }

    #[test]
    fn bytes_are_summed_by_reason_step_and_layer() {
        let at = |position, layer| Detail { position, layer: Some(layer), ..Detail::default() };
        let mut worker = Vec::new();
        let mut indexer = Vec::new();
        for position in 100..103 {
            for layer in 0..2 {
                let append = Detail { bytes: 32, ..at(position, layer) };
                let query = Detail { bytes: 16, ..at(position, layer) };
                worker.push(event(Activity::Append, 0, 1000, append));
                worker.push(event(Activity::Query, 0, 1000, query));
                worker.push(event(Activity::Wait, 0, 2000, at(position, layer)));
                let select = Detail {
                    bytes: 400,
                    hit_blocks: 6,
                    miss_blocks: 2,
                    repaired: layer == 1,
                    ..at(position, layer)
                };
                indexer.push(event(Activity::Select, 0, 3000, select));
                let audit = Detail { bytes: 50, ..at(position, layer) };
                indexer.push(event(Activity::Audit, 0, 1000, audit));
            }
            let step = Detail { position, ..Detail::default() };
            worker.push(event(Activity::Step, 0, 10_000, step));
        }
        let prompt = Detail { bytes: 6400, ..Detail::default() };
        worker.push(event(Activity::Prefill, 0, 1, prompt));
        // What is not part of a decode step does not count as one's traffic.
        indexer.push(event(Activity::Learn, 0, 1, at(0, 0)));
        let summary = Summary::new(run(), &Recorded::new(worker, indexer), &link());
        assert_eq!(summary.prefill_bytes, 6400);
        let expected =
            Traffic { miss: 2400, repair: 1200, append: 192, query: 96, hit: 7200, audit: 300 };
        assert_eq!(summary.decode_bytes, expected);
        assert_eq!(summary.decode_bytes.total(), 2688);
        let full = 64 * (101 + 102 + 103);
        assert!((summary.share_of_full_streaming - 2688.0 / f64::from(full)).abs() < 1e-12);
        assert!((summary.hit_rate.unwrap() - 0.75).abs() < 1e-12);
        assert_eq!(summary.steps.len(), 3);
        assert!(summary.steps.iter().all(|step| step.bytes.miss == 800 && step.waiting_us == 4.0));
        assert_eq!(summary.layers[1].bytes.repair, 1200);
        assert_eq!(summary.layers[1].prefill_bytes, 3200);
        let travelled: u64 = summary
            .traffic
            .iter()
            .filter(|row| row.direction != Way::None)
            .map(|row| row.bytes)
            .sum();
        assert_eq!(travelled, 6400 + 2688, "weights are none here");
        let selection = summary.selection_us.unwrap();
        assert_eq!((selection.count, selection.p50, selection.max), (6, 3.0, 3.0));
    }

    #[test]
    fn blocks_that_are_there_count_where_none_is_missing() {
        let detail = Detail { hit_blocks: 6, ..Detail::default() };
        let select = event(Activity::Select, 0, 1, detail);
        assert_eq!(traffic(&select, 200), Traffic { hit: 1200, ..Traffic::default() });
    }

    #[test]
    fn a_gpu_is_counted_by_phase_and_only_there() {
        let at = |position, bytes| Detail { position, bytes, ..Detail::default() };
        let worker = vec![
            event(Activity::GpuCopy, 0, 1000, at(0, 512)),
            event(Activity::GpuGather, 3000, 4000, at(100, 4096)),
            event(Activity::Step, 2000, 5000, at(100, 0)),
        ];
        let gpu = ProfiledGpu { name: "H100".to_owned(), modelled_link: None };
        let run = ProfiledRun { gpu: Some(gpu), ..run() };
        let summary = Summary::new(run, &Recorded::new(worker, Vec::new()), &link());
        assert!(!summary.modelled_link);
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json["gpu"]["name"], "H100");
        assert_eq!(json["gpu"]["prefill"]["passed_bytes"], 512);
        assert_eq!(json["gpu"]["decode"]["gathered_bytes"], 4096);
        assert_eq!(json["gpu"]["decode"]["overlap_share"], 0.0);
        assert_eq!(summary.decode_bytes, Traffic::default());
    }

    #[test]
    fn a_steps_use_of_the_link_is_its_rate_over_the_limit() {
        let layer = Detail { position: 100, layer: Some(0), ..Detail::default() };
        let worker = vec![
            event(Activity::Append, 0, 1, Detail { bytes: 600, ..layer }),
            event(Activity::Query, 0, 1, Detail { bytes: 400, ..layer }),
            event(Activity::Step, 0, 10_000, Detail { layer: None, ..layer }),
        ];
        let select = Detail { bytes: 4000, miss_blocks: 20, ..layer };
        let recorded = Recorded::new(worker, vec![event(Activity::Select, 0, 1, select)]);
        let summary = Summary::new(run(), &recorded, &link());
        // 4000 and 1000 bytes in 10 us are 0.4 and 0.1 GB/s, of 2 and 1.
        let step = &summary.steps[0];
        assert_eq!((step.to_device_bytes, step.to_host_bytes), (4000, 1000));
        assert!((step.link_to_device_share.unwrap() - 0.2).abs() < 1e-12);
        assert!((step.link_to_host_share.unwrap() - 0.1).abs() < 1e-12);
        assert!((summary.link.to_device_share.unwrap() - 0.2).abs() < 1e-12);
        assert_eq!(summary.link.measured, "memory copies between the cores 0 and 1");
        assert_eq!(summary.link.counters.absent.as_deref(), Some("no GPU"));

        let unmeasured = LinkOfRun { report: Err("one core".to_owned()), ..link() };
        let summary = Summary::new(run(), &recorded, &unmeasured);
        assert_eq!(summary.link.unmeasured.as_deref(), Some("one core"));
        assert!(summary.link.limit.is_none() && summary.steps[0].link_to_host_share.is_none());
    }

    #[test]
    fn a_run_without_steps_has_no_percentiles() {
        let empty = Recorded::new(Vec::new(), Vec::new());
        let summary = Summary::new(run(), &empty, &link());
        assert!(summary.step_us.is_none() && summary.hit_rate.is_none());
        assert_eq!(summary.share_of_full_streaming, 0.0);
    }
}
