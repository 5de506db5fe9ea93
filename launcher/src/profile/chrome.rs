//! Events in Chrome's trace format, which Perfetto reads.
//!
//! One process for each of ours; a track for what the worker computes and one for the indexer's core. A GPU stands beside
//! them as a process with a track for each of its streams. Arrows lead from a layer's query to each KV head's selection, on a
//! GPU from there to the copy of what it lacks, and to the attention over it.

use std::io::{Result, Write};

use hindsight_protocol::profile::{Activity, Event, GpuStream};
use serde_json::{Value, json};

use super::{ProfiledGpu, Recorded, microseconds};

const WORKER: u32 = 1;
const INDEXER: u32 = 2;
const GPU: u32 = 3;

/// Writes the trace as one JSON object.
pub(super) fn write(
    gpu: Option<&ProfiledGpu>,
    recorded: &Recorded,
    out: &mut impl Write,
) -> Result<()> {
    let Recorded { worker, indexer, gpu: on_gpu } = recorded;
    let all = worker.iter().chain(indexer).chain(on_gpu);
    let origin = all.map(|event| event.began_ns).min().unwrap_or(0);
    out.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n")?;
    let mut first = true;
    let mut put = |value: Value| -> Result<()> {
        if !std::mem::take(&mut first) {
            out.write_all(b",\n")?;
        }
        serde_json::to_writer(&mut *out, &value)?;
        Ok(())
    };
    for (process, name, threads) in tracks(gpu) {
        put(json!({"ph": "M", "pid": process, "name": "process_name", "args": {"name": name}}))?;
        for (thread, name) in (1..).zip(threads) {
            put(
                json!({"ph": "M", "pid": process, "tid": thread, "name": "thread_name", "args": {"name": name}}),
            )?;
        }
    }
    for (process, events) in [(WORKER, worker), (INDEXER, indexer), (GPU, on_gpu)] {
        for event in events {
            put(span(process, event, origin))?;
            if let Some((phase, at)) = arrow(event) {
                put(json!({
                    "ph": phase, "pid": process, "tid": track(event), "cat": "selection", "name": "selection",
                    "id": arrow_id(event), "ts": microseconds(at - origin), "bp": "e",
                }))?;
            }
        }
    }
    out.write_all(b"\n]}\n")
}

/// Each process with its tracks.
fn tracks(gpu: Option<&ProfiledGpu>) -> Vec<(u32, String, Vec<String>)> {
    let mut tracks = vec![
        (WORKER, "gpu-worker".to_owned(), vec!["model".to_owned()]),
        (INDEXER, "cpu-indexer".to_owned(), vec!["index".to_owned()]),
    ];
    if let Some(gpu) = gpu {
        let modelled = if gpu.modelled_link.is_some() { " (modelled)" } else { "" };
        let streams = ["copy", "compute"].map(|stream| format!("GPU {stream} stream{modelled}"));
        tracks.push((GPU, format!("GPU: {gpu}"), streams.to_vec()));
    }
    tracks
}

fn span(process: u32, event: &Event, origin: u64) -> Value {
    let detail = &event.detail;
    json!({
        "ph": "X", "pid": process, "tid": track(event), "name": event.activity,
        "ts": microseconds(event.began_ns - origin),
        "dur": microseconds(event.nanoseconds()),
        "args": {
            "position": detail.position, "layer": detail.layer, "kv_head": detail.kv_head, "bytes": detail.bytes,
            "hit_blocks": detail.hit_blocks, "miss_blocks": detail.miss_blocks, "repaired": detail.repaired,
        },
    })
}

/// The track of its process that an event is on.
const fn track(event: &Event) -> u32 {
    match event.activity.gpu_stream() {
        None | Some(GpuStream::Copy) => 1,
        Some(GpuStream::Compute) => 2,
    }
}

/// Which part of an arrow belongs to an event, and when.
fn arrow(event: &Event) -> Option<(char, u64)> {
    match event.activity {
        Activity::Query => Some(('s', event.began_ns)),
        Activity::Select | Activity::GpuGather => Some(('t', event.began_ns)),
        Activity::GpuAttendHits | Activity::GpuAttendMisses => Some(('f', event.began_ns)),
        Activity::Attend if event.detail.kv_head.is_some() => Some(('f', event.began_ns)),
        _ => None,
    }
}

/// One arrow for each layer of each step.
fn arrow_id(event: &Event) -> String {
    format!("{}.{}", event.detail.position, event.detail.layer.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use hindsight_protocol::profile::Detail;

    use super::*;

    fn trace(gpu: Option<&ProfiledGpu>, activities: &[Activity]) -> Vec<Value> {
        let event = |&activity: &Activity| Event {
            activity,
            began_ns: 2000,
            ended_ns: 5000,
            detail: Detail::default(),
        };
        let recorded = Recorded::new(activities.iter().map(event).collect(), Vec::new());
        let mut out = Vec::new();
        write(gpu, &recorded, &mut out).unwrap();
        let trace: Value = serde_json::from_slice(&out).unwrap();
        trace["traceEvents"].as_array().unwrap().clone()
    }

    #[test]
    fn each_stream_of_a_gpu_has_a_track() {
        let link = Some("gen4x16".to_owned());
        let gpu = ProfiledGpu { name: "H100".to_owned(), modelled_link: link };
        let events =
            trace(Some(&gpu), &[Activity::Query, Activity::GpuGather, Activity::GpuAttendHits]);
        let named = |name: &str| events.iter().find(|event| event["name"] == name).unwrap();
        let place = |name: &str| [&named(name)["pid"], &named(name)["tid"]].map(Value::as_u64);
        assert_eq!(place("query"), [1, 1].map(Some));
        assert_eq!(place("gpu-gather"), [3, 1].map(Some));
        assert_eq!(place("gpu-attend-hits"), [3, 2].map(Some));
        assert_eq!(named("gpu-gather")["dur"], 3.0);
        let names: Vec<_> =
            events.iter().filter_map(|event| event["args"]["name"].as_str()).collect();
        assert!(names.contains(&"GPU: H100; times are modelled, link gen4x16"), "{names:?}");
        assert!(names.contains(&"GPU copy stream (modelled)"), "{names:?}");
    }

    #[test]
    fn an_arrow_leads_over_the_copy_to_attention_on_its_stream() {
        let gpu = ProfiledGpu { name: "H100".to_owned(), modelled_link: None };
        let path =
            [Activity::Query, Activity::Select, Activity::GpuGather, Activity::GpuAttendMisses];
        let events = trace(Some(&gpu), &path);
        let arrow: Vec<_> = events
            .iter()
            .filter(|event| event["cat"] == "selection")
            .map(|event| {
                let place = [&event["pid"], &event["tid"]].map(|number| number.as_u64().unwrap());
                (event["ph"].as_str().unwrap(), place)
            })
            .collect();
        // The trace helper takes all of them for the worker's.
        assert_eq!(arrow, [("s", [1, 1]), ("t", [1, 1]), ("t", [3, 1]), ("f", [3, 2])]);
    }

    #[test]
    fn without_a_gpu_there_are_two_processes() {
        let events = trace(None, &[Activity::Query]);
        assert!(events.iter().all(|event| event["pid"].as_u64() <= Some(2)), "{events:?}");
    }
}
