//! A profile as one page of HTML that needs nothing else.

use std::fmt::Write;

use hindsight_protocol::profile::{Activity, Event, GpuStream};
use hindsight_protocol::records::AttentionPolicy;
use indicatif::HumanBytes;
use plotters::style::RGBColor;
use serde_json::Value;

use super::counters::{CounterSample, Counters};
use super::figure::{embedded, figure};
use super::link::share_of;
use super::plots::{Bar, Line, doublings, heat_map, lines, timeline};
use super::summary::{StepFigures, Summary, Traffic};
use super::{ProfiledGpu, ProfiledRun, Recorded, microseconds};
use crate::link::LinkLimit;
use crate::report::page::{escape, page as whole_page};
use crate::report::plot::{COLOURS, PlotError};

/// What the timeline tells apart.
const SHOWN: [(Activity, &str, RGBColor); 7] = [
    (Activity::Append, "append", COLOURS[4]),
    (Activity::Query, "query", COLOURS[3]),
    (Activity::Wait, "wait", COLOURS[1]),
    (Activity::Attend, "attend", COLOURS[0]),
    (Activity::Sample, "sample", COLOURS[5]),
    (Activity::Select, "select", COLOURS[2]),
    (Activity::Audit, "audit", RGBColor(128, 128, 128)),
];

/// What it tells apart on a GPU.
const SHOWN_ON_GPU: [(Activity, &str, RGBColor); 6] = [
    (Activity::GpuGather, "gather", COLOURS[1]),
    (Activity::GpuCopy, "copy", COLOURS[3]),
    (Activity::GpuAppend, "append", COLOURS[4]),
    (Activity::GpuAttendHits, "attend to hits", COLOURS[0]),
    (Activity::GpuAttendMisses, "attend to misses", COLOURS[2]),
    (Activity::GpuAttendAll, "attend to all", COLOURS[5]),
];

/// The page. Numbers that are in the summary are taken from `figures`, which is the summary as JSON.
pub(super) fn page(
    summary: &Summary,
    figures: &Value,
    recorded: &Recorded,
    counters: &Counters,
) -> Result<String, PlotError> {
    let ProfiledRun { model, attention, prompt_tokens, .. } = &summary.run;
    let title = format!("{model} with {attention} attention");
    let device = summary.run.gpu.as_ref().map_or_else(
        || {
            "The device was the CPU: bytes are those that would have travelled to and from a device of its own."
                .to_owned()
        },
        |gpu| format!("The device was {}.", escape(&gpu.to_string())),
    );
    let mut out = format!(
        "<p>{} decode steps after a prompt of {prompt_tokens} tokens. {device}</p>\n",
        summary.steps.len(),
    );
    out.push_str(&embedded(figures));
    totals(figures, summary.steps.len(), &mut out);
    if let Some(gpu) = &summary.run.gpu {
        streams(figures, gpu, &mut out);
    }
    percentiles(figures, &mut out);
    if summary.steps.is_empty() {
        out.push_str("<p>No decode step was taken.</p>\n");
        return Ok(whole_page(&title, &out));
    }
    let mut section = |name: &str, heading: &str, text: &str, plot: String| {
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "<section id=\"plot-{name}\"><h2>{heading}</h2>\n<p>{text}</p>\n{plot}</section>\n"
        );
    };
    section(
        "full-streaming",
        "Beside full streaming",
        "What each step moved, and what streaming all keys and values to it would have, on a scale of doublings.",
        beside_full_streaming(summary)?,
    );
    section(
        "bytes-by-reason",
        "Bytes per step",
        "By the reason why they travel. Streaming all keys and values would take what the table above says.",
        bytes_by_reason(summary)?,
    );
    section("times", "Time per step", "On the worker, and on the indexer's core.", times(summary)?);
    let text = link_text(summary, figures);
    let plot = match summary.link.limit {
        Some(limit) => link_use(summary, limit, counters)?,
        None => String::new(),
    };
    section("link-use", "Link use", &text, plot);
    if summary.run.attention != AttentionPolicy::Full {
        section(
            "hit-rate",
            "Hit rate",
            "Share of the selected blocks that the device held already.",
            hit_rate(summary)?,
        );
        section(
            "bytes-by-layer",
            "Bytes by layer and step",
            "Blocks that had to travel; the darkest is the most.",
            by_layer(summary, recorded)?,
        );
        section(
            "selection-latency",
            "Selection latency",
            "One KV head's selection: the share of selections that took no longer.",
            latency(recorded)?,
        );
    }
    let (step, plot) = one_step(summary, recorded)?;
    section(
        "one-step",
        "One step",
        &format!("The median step, at position {step}.{}", key(summary)),
        plot,
    );
    Ok(whole_page(&title, &out))
}

/// A number of bytes for people.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers of bytes are whole and positive"
)]
fn human(bytes: f64) -> String {
    HumanBytes(bytes as u64).to_string()
}

/// A share for people.
fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

fn totals(figures: &Value, steps: usize, out: &mut String) {
    out.push_str("<table><tr><th class=\"text\">bytes</th><th>in all</th><th>per step</th></tr>\n");
    let rows = [
        ("weights, once", "/weight_bytes", false),
        ("prompt's keys and values", "/prefill_bytes", false),
        ("missing blocks", "/decode_bytes/miss", true),
        ("of these, for repairs", "/decode_bytes/repair", true),
        ("new keys and values", "/decode_bytes/append", true),
        ("queries", "/decode_bytes/query", true),
        ("all of decode", "/decode_total_bytes", true),
        ("full streaming instead", "/full_streaming_bytes", true),
        ("blocks already there", "/decode_bytes/hit", true),
        ("keys that audits read in host memory", "/decode_bytes/audit", true),
    ];
    for (name, pointer, each_step) in rows {
        let mut per_step = String::new();
        let shown = figure(figures, pointer, |bytes| {
            if each_step {
                per_step = human(bytes / steps.max(1) as f64);
            }
            human(bytes)
        });
        let _ = writeln!(
            out,
            "<tr><td class=\"text\">{name}</td><td>{}</td><td>{per_step}</td></tr>",
            shown.unwrap_or_default()
        );
    }
    let share = figure(figures, "/share_of_full_streaming", percent).unwrap_or_default();
    let _ =
        writeln!(out, "</table>\n<p>Decode moved {share} of what full streaming would have.</p>");
    if let Some(rate) = figure(figures, "/hit_rate", percent) {
        let _ = writeln!(out, "<p>{rate} of the selected blocks were there already.</p>");
    }
}

fn streams(figures: &Value, gpu: &ProfiledGpu, out: &mut String) {
    let modelled = if gpu.modelled_link.is_some() { ", modelled" } else { "" };
    let _ = writeln!(
        out,
        "<table><tr><th class=\"text\">GPU streams{modelled}</th><th>gathered</th><th>passed through</th>\
         <th>copying, ms</th><th>attention, ms</th><th>both at once, ms</th><th>of copying</th></tr>"
    );
    let milliseconds = |us: f64| format!("{:.3}", us / 1e3);
    for (name, part) in [("prompt", "prefill"), ("decode", "decode")] {
        let cell = |key: &str, show: fn(f64) -> String| {
            let shown = figure(figures, &format!("/gpu/{part}/{key}"), show);
            format!("<td>{}</td>", shown.unwrap_or_default())
        };
        let _ = writeln!(
            out,
            "<tr><td class=\"text\">{name}</td>{}{}{}{}{}{}</tr>",
            cell("gathered_bytes", human),
            cell("passed_bytes", human),
            cell("copy_busy_us", milliseconds),
            cell("compute_busy_us", milliseconds),
            cell("overlap_us", milliseconds),
            cell("overlap_share", percent),
        );
    }
    out.push_str("</table>\n");
}

fn percentiles(figures: &Value, out: &mut String) {
    out.push_str(
        "<table><tr><th class=\"text\">microseconds</th><th>count</th><th>p50</th><th>p90</th><th>p99</th>\
         <th>longest</th></tr>\n",
    );
    let rows = [
        ("decode step", "step_us"),
        ("selection of a KV head", "selection_us"),
        ("wait for a KV head", "waiting_us"),
    ];
    for (name, times) in rows {
        let cell = |key: &str, decimals: usize| {
            figure(figures, &format!("/{times}/{key}"), |number| format!("{number:.decimals$}"))
        };
        let Some(count) = cell("count", 0) else { continue };
        let _ = write!(out, "<tr><td class=\"text\">{name}</td><td>{count}</td>");
        for key in ["p50", "p90", "p99", "max"] {
            let _ = write!(out, "<td>{}</td>", cell(key, 1).unwrap_or_default());
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table>\n");
}

#[expect(clippy::cast_precision_loss, reason = "positions and bytes become coordinates")]
fn per_step(summary: &Summary, name: &'static str, value: impl Fn(&StepFigures) -> f64) -> Line {
    let points = summary.steps.iter().map(|step| (step.position as f64, value(step))).collect();
    Line { name, points }
}

#[expect(clippy::cast_precision_loss, reason = "bytes become coordinates")]
fn beside_full_streaming(summary: &Summary) -> Result<String, PlotError> {
    let kibibytes = |bytes: u64| bytes as f64 / 1024.0;
    let of = [
        per_step(summary, "full streaming", |step| kibibytes(step.full_streaming_bytes)),
        per_step(summary, "this run", |step| kibibytes(step.bytes.total())),
    ];
    doublings("position", "KiB", &of)
}

/// What the plot of the link's use shows, and its numbers over all of decode.
fn link_text(summary: &Summary, figures: &Value) -> String {
    let link = &summary.link;
    if let Some(why) = &link.unmeasured {
        return format!("What the link carries at most could not be measured: {}.", escape(why));
    }
    let shown = |pointer: &str, show: fn(f64) -> String| {
        figure(figures, &format!("/link/{pointer}"), show).unwrap_or_else(|| "nothing".to_owned())
    };
    let speed = |rate: f64| format!("{rate:.2} GB/s");
    let mut text = format!(
        "Bytes of a step over its time, as a share of what the link carries at most: {} to the device, {} to the host. \
         Measured after the run: {}, one copy of {}. Over all of decode {} of that was used to the device, {} to the host.",
        shown("limit/to_device_gb_per_s", speed),
        shown("limit/to_host_gb_per_s", speed),
        escape(&link.measured),
        shown("limit/bytes", human),
        shown("to_device_share", percent),
        shown("to_host_share", percent),
    );
    if link.copying_gb_per_s.is_some() {
        let _ = write!(
            text,
            " While the copy stream was at work it moved {}, {} of the limit.",
            shown("copying_gb_per_s", speed),
            shown("copying_share", percent)
        );
    }
    let counters = &link.counters;
    let _ = match (&counters.absent, counters.samples) {
        (Some(why), _) => write!(text, " No counters of a GPU: {}.", escape(why)),
        (None, 0) => write!(text, " NVML's counters were not read in time: the run was too short."),
        (None, _) => write!(
            text,
            " NVML counted {} to the device where this run counted {}, and {} to the host where it counted {} \
             (means over {} looks).",
            shown("counters/to_device_gb_per_s", speed),
            shown("counters/counted_to_device_gb_per_s", speed),
            shown("counters/to_host_gb_per_s", speed),
            shown("counters/counted_to_host_gb_per_s", speed),
            shown("counters/samples", |count| count.to_string()),
        ),
    };
    text
}

#[expect(clippy::cast_precision_loss, reason = "positions become coordinates")]
fn link_use(summary: &Summary, limit: LinkLimit, counters: &Counters) -> Result<String, PlotError> {
    let share = |share: Option<f64>| share.unwrap_or(0.0) * 100.0;
    let mut of = vec![
        per_step(summary, "to device", |step| share(step.link_to_device_share)),
        per_step(summary, "to host", |step| share(step.link_to_host_share)),
    ];
    if !counters.samples.is_empty() {
        let line = |name, rate: fn(&CounterSample) -> f64, limit: f64| {
            let points = counters
                .by_position(&summary.steps)
                .map(|(position, sample)| (position as f64, share(share_of(rate(&sample), limit))));
            Line { name, points: points.collect() }
        };
        of.push(line("to device (NVML)", |s| s.to_device_gb_per_s, limit.to_device_gb_per_s));
        of.push(line("to host (NVML)", |s| s.to_host_gb_per_s, limit.to_host_gb_per_s));
    }
    lines("position", "% of the limit", &of)
}

#[expect(clippy::cast_precision_loss, reason = "bytes become coordinates")]
fn bytes_by_reason(summary: &Summary) -> Result<String, PlotError> {
    let kibibytes = |bytes: u64| bytes as f64 / 1024.0;
    let of = [
        per_step(summary, "missing blocks", |step| kibibytes(step.bytes.miss)),
        per_step(summary, "new keys and values", |step| kibibytes(step.bytes.append)),
        per_step(summary, "queries", |step| kibibytes(step.bytes.query)),
    ];
    lines("position", "KiB", &of)
}

fn times(summary: &Summary) -> Result<String, PlotError> {
    let of = [
        per_step(summary, "step", |step| step.step_us / 1e3),
        per_step(summary, "attention", |step| step.attention_us / 1e3),
        per_step(summary, "waiting", |step| step.waiting_us / 1e3),
        per_step(summary, "selection (indexer)", |step| step.selection_us / 1e3),
    ];
    lines("position", "ms", &of)
}

#[expect(clippy::cast_precision_loss, reason = "bytes become shares")]
fn hit_rate(summary: &Summary) -> Result<String, PlotError> {
    let share = |step: &StepFigures| {
        let Traffic { hit, miss, .. } = step.bytes;
        if hit + miss == 0 { 1.0 } else { hit as f64 / (hit + miss) as f64 }
    };
    lines("position", "share", &[per_step(summary, "hit rate", share)])
}

#[expect(clippy::cast_precision_loss, reason = "positions and bytes become coordinates")]
fn by_layer(summary: &Summary, recorded: &Recorded) -> Result<String, PlotError> {
    let (Some(first), Some(last)) = (summary.steps.first(), summary.steps.last()) else {
        return Ok(String::new());
    };
    let positions = first.position..last.position + 1;
    let columns = usize::try_from(last.position + 1 - first.position)?;
    let mut rows: Vec<(u32, Vec<f64>)> =
        summary.layers.iter().map(|layer| (layer.layer, vec![0.0; columns])).collect();
    for event in recorded.indexer.iter().filter(|event| event.activity == Activity::Select) {
        let row = rows.iter_mut().find(|row| Some(row.0) == event.detail.layer);
        if let Some((_, values)) = row.filter(|_| positions.contains(&event.detail.position)) {
            let column = usize::try_from(event.detail.position - positions.start)?;
            values[column] += event.detail.bytes as f64;
        }
    }
    heat_map("position", "layer", positions.start as f64..positions.end as f64, &rows)
}

#[expect(clippy::cast_precision_loss, reason = "counts become shares")]
fn latency(recorded: &Recorded) -> Result<String, PlotError> {
    let select = recorded.indexer.iter().filter(|event| event.activity == Activity::Select);
    let mut times: Vec<f64> = select.map(|event| microseconds(event.nanoseconds())).collect();
    times.sort_unstable_by(f64::total_cmp);
    // The last hundredth would squeeze all others together.
    let shown = times.len() * 99 / 100;
    let step = (shown / 500).max(1);
    let points = times[..shown]
        .iter()
        .enumerate()
        .step_by(step)
        .map(|(rank, &time)| (time, (rank + 1) as f64 / times.len() as f64))
        .collect();
    lines("microseconds", "share", &[Line { name: "selections", points }])
}

/// The position of the median step, and what was done in it.
fn one_step(summary: &Summary, recorded: &Recorded) -> Result<(u64, String), PlotError> {
    let mut steps: Vec<&StepFigures> = summary.steps.iter().collect();
    steps.sort_unstable_by(|a, b| a.step_us.total_cmp(&b.step_us));
    let position = steps[steps.len() / 2].position;
    let step = recorded
        .worker
        .iter()
        .find(|event| event.activity == Activity::Step && event.detail.position == position)
        .ok_or("a step without an event")?;
    let on_stream = |stream| recorded.gpu.iter().filter(move |event| is_on(event, stream));
    let mut bars = Vec::new();
    let mut show = |row: usize, event: &Event| {
        let mut shown = SHOWN.iter().chain(&SHOWN_ON_GPU);
        let colour = shown.find(|shown| shown.0 == event.activity).map(|shown| shown.2);
        if let Some(colour) = colour.filter(|_| event.detail.position == position) {
            let since = |time: u64| microseconds(time.saturating_sub(step.began_ns));
            bars.push(Bar { row, from: since(event.began_ns), to: since(event.ended_ns), colour });
        }
    };
    recorded.worker.iter().for_each(|event| show(0, event));
    recorded.indexer.iter().for_each(|event| show(1, event));
    on_stream(GpuStream::Copy).for_each(|event| show(2, event));
    on_stream(GpuStream::Compute).for_each(|event| show(3, event));
    let rows = ["worker", "indexer", "GPU copy", "GPU compute"];
    let rows = if recorded.gpu.is_empty() { &rows[..2] } else { &rows };
    Ok((position, timeline("microseconds", rows, &bars)?))
}

fn is_on(event: &Event, stream: GpuStream) -> bool {
    event.activity.gpu_stream() == Some(stream)
}

/// What the colours of the timeline mean.
fn key(summary: &Summary) -> String {
    let mut out = String::new();
    let on_gpu: &[_] = if summary.gpu.is_some() { &SHOWN_ON_GPU } else { &[] };
    for &(_, name, RGBColor(red, green, blue)) in SHOWN.iter().chain(on_gpu) {
        let _ = write!(
            out,
            "<span class=\"key\" style=\"background: rgb({red}, {green}, {blue})\"></span>{name}"
        );
    }
    out.push_str(" (the rest of the worker's time: projections)");
    out
}
