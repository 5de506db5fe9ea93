//! The page of a profile, as a browser draws it: every plot is there, the lines run where the summary's numbers put them,
//! the numbers are the summary's, and a phone shows it all.
//!
//! It needs Chromium, and is not among the tests that run without being named (`test = false`).

mod chromium;
#[path = "../support/mod.rs"]
mod support;

use std::fs;

use chromium::{Number, Plot, Seen, open};
use serde_json::{Value, json};
use support::{book, hindsight, model, stderr};
use tempfile::TempDir;

const PHONE: u32 = 360;
const DESK: u32 = 1200;

/// A profile: its page and its summary.
fn profile(attention: &str) -> (String, Value) {
    let directory = TempDir::new().unwrap();
    let folder = directory.path().join("profile");
    let prompt = directory.path().join("prompt.txt");
    fs::write(&prompt, book(4000)).unwrap();
    let output = hindsight()
        .args(["profile", "--output"])
        .arg(&folder)
        .args(["--", "run", "--raw", "-n", "12", "--top-k", "64", "--attention", attention])
        .args(["--dense-tokens", "0"])
        .arg("--model")
        .arg(model())
        .arg("--prompt-file")
        .arg(&prompt)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let page = fs::read_to_string(folder.join("report.html")).unwrap();
    (page, serde_json::from_slice(&fs::read(folder.join("summary.json")).unwrap()).unwrap())
}

/// What is wrong with a page, of all that could be.
fn faults(page: &str, summary: &Value) -> Vec<String> {
    let (seen, console) = open(page, &[PHONE, DESK]);
    let mut faults = console;
    assert_eq!(seen.len(), 2);
    for seen in &seen {
        layout_faults(seen, &mut faults);
        if serde_json::from_str::<Value>(&seen.summary).ok().as_ref() != Some(summary) {
            faults.push("the page carries another summary".to_owned());
        }
        number_faults(&seen.numbers, summary, &mut faults);
        plot_faults(&seen.plots, summary, &mut faults);
    }
    faults
}

fn layout_faults(seen: &Seen, faults: &mut Vec<String>) {
    let Seen { width, content_width, fetched, plots, .. } = seen;
    if content_width > width {
        faults.push(format!("{content_width} pixels across in a frame of {width}"));
    }
    faults.extend(fetched.iter().map(|address| format!("{address} was fetched")));
    for plot in plots {
        let Some(area) = &plot.area else { continue };
        if area.width < 0.8 * width.min(960.0) || area.height < 40.0 || area.x < 0.0 {
            faults.push(format!("{} is {area:?}", plot.id));
        }
    }
}

/// A number stands for itself in full, and its text for it as people read it.
fn number_faults(numbers: &[Number], summary: &Value, faults: &mut Vec<String>) {
    let mut wanted: Vec<String> = [
        "/prefill_bytes",
        "/decode_total_bytes",
        "/full_streaming_bytes",
        "/weight_bytes",
        "/share_of_full_streaming",
        "/step_us/count",
    ]
    .map(str::to_owned)
    .into();
    let reasons = ["miss", "repair", "append", "query", "hit"];
    wanted.extend(reasons.map(|reason| format!("/decode_bytes/{reason}")));
    let times = ["step_us", "selection_us", "waiting_us"];
    for times in times.iter().filter(|times| summary[**times].is_object()) {
        wanted.extend(["p50", "p90", "p99", "max"].map(|key| format!("/{times}/{key}")));
    }
    for path in wanted {
        if !numbers.iter().any(|number| number.path == path) {
            faults.push(format!("{path} is not shown"));
        }
    }
    for Number { path, value, text, area } in numbers {
        let stated = summary.pointer(path).and_then(Value::as_f64);
        if stated != Some(*value) {
            faults.push(format!("{path} is {value}, but {stated:?} in the summary"));
        }
        let read = read(text);
        if !read.is_some_and(|(read, digit)| (read - value).abs() <= 0.51 * digit) {
            faults.push(format!("{path} is {value}, and written {text:?}"));
        }
        if area.width <= 0.0 || area.height <= 0.0 {
            faults.push(format!("{path} is not drawn"));
        }
    }
}

/// The number that a text such as `1.50 MiB` or `12.30 %` stands for, and one of its last digit.
fn read(text: &str) -> Option<(f64, f64)> {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let unit = match unit {
        "" | "B" | "GB/s" => 1.0,
        "%" => 0.01,
        "KiB" => 1024.0,
        "MiB" => 1_048_576.0,
        "GiB" => 1_073_741_824.0,
        _ => return None,
    };
    let decimals = number.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    Some((number.parse::<f64>().ok()? * unit, unit / 10_f64.powi(i32::try_from(decimals).ok()?)))
}

/// What a plot's lines show: a number of each step, by its key.
fn values(plot: &str, steps: &[Value]) -> Vec<Vec<f64>> {
    let bytes = |step: &Value, reason: &str| step["bytes"][reason].as_f64().unwrap();
    let of = |value: &dyn Fn(&Value) -> f64| steps.iter().map(value).collect::<Vec<f64>>();
    match plot {
        "plot-bytes-by-reason" => {
            ["miss", "append", "query"].map(|reason| of(&|step| bytes(step, reason))).into()
        }
        "plot-times" => ["step_us", "attention_us", "waiting_us", "selection_us"]
            .map(|key| of(&|step| step[key].as_f64().unwrap()))
            .into(),
        "plot-link-use" => ["link_to_device_share", "link_to_host_share"]
            .map(|key| of(&|step| step[key].as_f64().unwrap_or(0.0)))
            .into(),
        "plot-full-streaming" => vec![
            of(&|step| step["full_streaming_bytes"].as_f64().unwrap().log2()),
            of(&|step| {
                ["miss", "append", "query"].map(|r| bytes(step, r)).iter().sum::<f64>().log2()
            }),
        ],
        "plot-hit-rate" => {
            vec![of(&|step| bytes(step, "hit") / (bytes(step, "hit") + bytes(step, "miss")))]
        }
        _ => vec![],
    }
}

fn plot_faults(plots: &[Plot], summary: &Value, faults: &mut Vec<String>) {
    let steps = summary["steps"].as_array().unwrap();
    let layers = summary["layers"].as_array().unwrap();
    let mut wanted = vec!["full-streaming", "bytes-by-reason", "times", "link-use"];
    if summary["attention"] != "full" {
        wanted.extend(["hit-rate", "bytes-by-layer", "selection-latency"]);
    }
    wanted.push("one-step");
    let wanted: Vec<String> = wanted.iter().map(|name| format!("plot-{name}")).collect();
    let found: Vec<&String> = plots.iter().map(|plot| &plot.id).collect();
    if found != wanted.iter().collect::<Vec<_>>() {
        faults.push(format!("plots {found:?} instead of {wanted:?}"));
    }
    for plot in plots {
        let Plot { id, heading, area, lines, bars, texts } = plot;
        if area.is_none() || heading.is_empty() || texts.len() < 4 {
            faults.push(format!("{id} is not drawn, or nothing says what it is"));
            continue;
        }
        // Axes and the keys of the legend are lines of two points.
        let curves: Vec<_> = lines.iter().filter(|line| line.len() > 2).collect();
        let values = values(id, steps);
        if values.is_empty() {
            let enough = match id.as_str() {
                "plot-bytes-by-layer" => *bars > steps.len() * layers.len(),
                "plot-selection-latency" => curves.len() == 1 && curves[0].len() > 100,
                _ => *bars > layers.len(),
            };
            if !enough {
                faults.push(format!("{id} has {bars} bars and {} curves", curves.len()));
            }
            continue;
        }
        if curves.len() != values.len() || curves.iter().any(|curve| curve.len() != steps.len()) {
            let points: Vec<usize> = curves.iter().map(|curve| curve.len()).collect();
            faults.push(format!("{id} has curves of so many points: {points:?}"));
            continue;
        }
        let points = curves
            .iter()
            .zip(&values)
            .flat_map(|(curve, values)| curve.iter().map(|&[_, y]| y).zip(values.iter().copied()));
        if off_scale(points.collect()) {
            faults.push(format!("{id}: its curves do not follow the summary's steps"));
        }
        if curves.iter().any(|curve| curve.windows(2).any(|pair| pair[0][0] >= pair[1][0])) {
            faults.push(format!("{id}: its curves do not go from left to right"));
        }
    }
}

/// Whether heights in a picture, which grow downwards, are not those of the values on one scale; they are whole pixels.
fn off_scale(mut points: Vec<(f64, f64)>) -> bool {
    points.sort_unstable_by(|a, b| a.1.total_cmp(&b.1));
    let (low, high) = (points[0], points[points.len() - 1]);
    let scale = (high.0 - low.0) / (high.1 - low.1);
    scale >= 0.0
        || points.iter().any(|(y, value)| (low.0 + scale * (value - low.1) - y).abs() > 1.5)
}

#[test]
fn a_profiles_page_is_drawn_and_its_numbers_are_the_summarys() {
    let (page, summary) = profile("lfps");
    assert_eq!(faults(&page, &summary), Vec::<String>::new());
    damaged_pages_are_told_apart(&page, &summary);
}

#[test]
fn a_page_of_full_attention_is_drawn_without_selections() {
    let (page, summary) = profile("full");
    assert_eq!(faults(&page, &summary), Vec::<String>::new());
}

/// Each check finds what it is there to find.
fn damaged_pages_are_told_apart(page: &str, summary: &Value) {
    let with = |html: &str| page.replacen("</body>", &format!("{html}</body>"), 1);
    let found = |page: &str, summary: &Value, part: &str| {
        let faults = faults(page, summary);
        assert!(faults.iter().any(|fault| fault.contains(part)), "{part:?} is not in {faults:?}");
    };
    found(&with("<img src='http://hindsight.invalid/a.png'>"), summary, "was fetched");
    found(&with("<script>throw new Error('lost')</script>"), summary, "Uncaught Error: lost");
    found(&with("<div style='width: 500px'>wide</div>"), summary, "in a frame of 360");
    let bare = page.replacen("<section id=\"plot-times\">", "<section id=\"plot-other\">", 1);
    found(&bare, summary, "instead of");
    found(&with("<style>#plot-times polyline { stroke: none }</style>"), summary, "plot-times has");
    found(&with("<style>#plot-hit-rate svg { height: 0 }</style>"), summary, "plot-hit-rate is");
    found(&with("<style>data { display: none }</style>"), summary, "/hit_rate is not drawn");

    let mut other = summary.clone();
    other["decode_bytes"]["miss"] = json!(1);
    found(page, &other, "/decode_bytes/miss is");
    let mut other = summary.clone();
    let step = &mut other["steps"][3]["step_us"];
    *step = json!(step.as_f64().unwrap() * 0.5);
    found(page, &other, "plot-times: its curves");
}
