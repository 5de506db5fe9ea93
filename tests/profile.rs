//! `hindsight profile`: everything that a run does is written down, and the sums are those of its summary.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use support::{hindsight, model, stderr};
use tempfile::TempDir;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_profile_accounts_for_every_byte_of_the_run() {
    let directory = TempDir::new().unwrap();
    let folder = directory.path().join("profile");
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/alice.txt");
    let prompt = directory.path().join("prompt.txt");
    let beginning: String = fs::read_to_string(text).unwrap().chars().take(8000).collect();
    fs::write(&prompt, beginning).unwrap();
    let output = hindsight()
        .args(["profile", "--output"])
        .arg(&folder)
        .args(["--", "run", "--json", "--raw", "-n", "12", "--top-k", "64", "--dense-tokens", "0"])
        .arg("--model")
        .arg(model())
        .arg("--prompt-file")
        .arg(&prompt)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let run: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut names: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["report.html", "summary.json", "trace.json"]);

    let summary = json(&folder.join("summary.json"));
    let steps = summary["steps"].as_array().unwrap();
    let bytes = |of: &Value, reason: &str| of["bytes"][reason].as_u64().unwrap();
    let total = |reason: &str| summary["decode_bytes"][reason].as_u64().unwrap();
    for reason in ["miss", "repair", "append", "query", "hit", "audit"] {
        let by_step: u64 = steps.iter().map(|step| bytes(step, reason)).sum();
        let layers = summary["layers"].as_array().unwrap();
        let by_layer: u64 = layers.iter().map(|layer| bytes(layer, reason)).sum();
        assert_eq!((by_step, by_layer), (total(reason), total(reason)), "{reason}");
    }
    #[expect(clippy::cast_precision_loss)]
    let per_token = (total("miss") + total("append")) as f64 / steps.len() as f64;
    let stated = run["link_bytes_per_token"].as_f64().unwrap();
    assert!((per_token - stated).abs() < 1.0, "{per_token} {stated}");
    let rates = [&summary["hit_rate"], &run["cache_hit_rate"]].map(|rate| rate.as_f64().unwrap());
    assert!((rates[0] - rates[1]).abs() < 1e-9, "{rates:?}");

    // Every arrow leads from a query over the selections of its KV heads to as many attentions.
    let trace = json(&folder.join("trace.json"));
    let mut arrows: BTreeMap<String, String> = BTreeMap::new();
    for event in trace["traceEvents"].as_array().unwrap() {
        if let Some(id) = event["id"].as_str() {
            arrows.entry(id.to_owned()).or_default().push_str(event["ph"].as_str().unwrap());
        }
    }
    assert_eq!(arrows.len(), steps.len() * 28, "two of 30 layers are dense");
    for (id, phases) in arrows {
        let count = |phase| phases.matches(phase).count();
        assert_eq!((count('s'), count('t'), count('f')), (1, 3, 3), "{id}");
    }

    let page = fs::read_to_string(folder.join("report.html")).unwrap();
    assert_eq!(page.matches("<svg").count(), 8);

    // What a step moved over its time is a share of what the link carries at most.
    let link = &summary["link"];
    let limit = |key: &str| link["limit"][key].as_f64().unwrap();
    assert!(limit("to_device_gb_per_s") > 0.1 && limit("to_host_gb_per_s") > 0.1, "{link}");
    assert!(link["measured"].as_str().unwrap().starts_with("memory copies"), "{link}");
    assert!(link["counters"]["absent"].as_str().unwrap().contains("CPU"), "{link}");
    for step in steps {
        let number = |key: &str| step[key].as_f64().unwrap();
        let rate = number("to_device_bytes") / number("step_us") / 1e3;
        let share = rate / limit("to_device_gb_per_s");
        assert!((number("link_to_device_share") - share).abs() < 1e-9, "{step}");
    }
    let of_reason = |reason: &str| {
        let rows = summary["traffic"].as_array().unwrap();
        rows.iter().find(|row| row["reason"] == reason).unwrap()
    };
    assert_eq!(of_reason("miss")["direction"], "to-device");
    assert_eq!(of_reason("append")["bytes"], total("append"));
    assert_eq!(of_reason("prefill")["bytes"], summary["prefill_bytes"]);
    assert_eq!(of_reason("audit")["direction"], "none");
    assert!(of_reason("audit")["bytes"].as_u64().unwrap() > 0, "{summary}");
    let embedded = page.split_once("id=\"summary\">").unwrap().1.split_once("</script>").unwrap().0;
    assert_eq!(serde_json::from_str::<Value>(embedded).unwrap(), summary);
    let shown: Vec<_> = page.split("<data value=\"").skip(1).collect();
    assert!(shown.len() > 20, "{}", shown.len());
    for figure in shown {
        let (value, rest) = figure.split_once("\" data-path=\"").unwrap();
        let pointer = rest.split_once('"').unwrap().0;
        assert_eq!(summary.pointer(pointer).unwrap().to_string(), value, "{pointer}");
    }
    let share = summary["share_of_full_streaming"].as_f64().unwrap() * 100.0;
    assert!(page.contains(&format!(">{share:.2} %</data> of what full streaming")), "{share}");
}

#[test]
fn a_folder_that_holds_something_is_left_alone() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("thesis.txt"), "mine").unwrap();
    let output = hindsight()
        .args(["run", "--model"])
        .arg(model())
        .args(["--prompt", "Hello", "--profile"])
        .arg(directory.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("holds something already"), "{}", stderr(&output));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}
