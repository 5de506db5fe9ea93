//! Events in Chrome's trace format, which Perfetto reads.
//!
//! One process for each of ours; a track for what the worker computes and one for the indexer's core. Arrows lead from
//! a layer's query to each KV head's selection, and from there to the attention over it.

use std::io::{Result, Write};

use hindsight_protocol::profile::{Activity, Event};
use serde_json::{Value, json};

use super::{Recorded, microseconds};

const WORKER: u32 = 1;
const INDEXER: u32 = 2;

/// Writes the trace as one JSON object.
pub(super) fn write(recorded: &Recorded, out: &mut impl Write) -> Result<()> {
    let origin = recorded.worker.iter().chain(&recorded.indexer).map(|event| event.began_ns).min();
    let origin = origin.unwrap_or(0);
    out.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n")?;
    let mut first = true;
    let mut put = |value: Value| -> Result<()> {
        if !std::mem::take(&mut first) {
            out.write_all(b",\n")?;
        }
        serde_json::to_writer(&mut *out, &value)?;
        Ok(())
    };
    for (process, name, thread) in
        [(WORKER, "gpu-worker", "model"), (INDEXER, "cpu-indexer", "index")]
    {
        put(json!({"ph": "M", "pid": process, "name": "process_name", "args": {"name": name}}))?;
        put(
            json!({"ph": "M", "pid": process, "tid": 1, "name": "thread_name", "args": {"name": thread}}),
        )?;
    }
    for (process, events) in [(WORKER, &recorded.worker), (INDEXER, &recorded.indexer)] {
        for event in events {
            put(span(process, event, origin))?;
            if let Some((phase, at)) = arrow(event) {
                put(json!({
                    "ph": phase, "pid": process, "tid": 1, "cat": "selection", "name": "selection",
                    "id": arrow_id(event), "ts": microseconds(at - origin), "bp": "e",
                }))?;
            }
        }
    }
    out.write_all(b"\n]}\n")
}

fn span(process: u32, event: &Event, origin: u64) -> Value {
    let detail = &event.detail;
    json!({
        "ph": "X", "pid": process, "tid": 1, "name": event.activity,
        "ts": microseconds(event.began_ns - origin),
        "dur": microseconds(event.nanoseconds()),
        "args": {
            "position": detail.position, "layer": detail.layer, "kv_head": detail.kv_head, "bytes": detail.bytes,
            "hit_blocks": detail.hit_blocks, "miss_blocks": detail.miss_blocks, "repaired": detail.repaired,
        },
    })
}

/// Which part of an arrow belongs to an event, and when.
fn arrow(event: &Event) -> Option<(char, u64)> {
    match event.activity {
        Activity::Query => Some(('s', event.began_ns)),
        Activity::Select => Some(('t', event.began_ns)),
        Activity::Attend if event.detail.kv_head.is_some() => Some(('f', event.began_ns)),
        _ => None,
    }
}

/// One arrow for each layer of each step.
fn arrow_id(event: &Event) -> String {
    format!("{}.{}", event.detail.position, event.detail.layer.unwrap_or(0))
}
