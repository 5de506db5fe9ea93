//! Evaluations with a real model: texts are the same as from fresh processes, and nothing done is done twice.

mod support;

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{book, hindsight, kill, model, run_json, stderr};

fn eval(arguments: &[&str], output: &Path) -> Output {
    let mut command = hindsight();
    command.args(["eval"]).args(arguments).arg("--json");
    command.arg("--model").arg(model()).arg("--output").arg(output).output().unwrap()
}

fn eval_json(arguments: &[&str], output: &Path) -> Value {
    let output = eval(arguments, output);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Records of a file of results.
fn records(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn texts_are_those_of_fresh_processes_whatever_was_asked_before() {
    let folder = tempfile::tempdir().unwrap();
    let beginning = book(6000);
    let prompts = [
        format!("{beginning}\n\nQuestion: Who fell down the hole?\nAnswer:"),
        format!("{}\n\nQuestion: What was in the jar?\nAnswer:", book(9000)),
        "A short prompt that shares nothing: 1, 2, 3,".to_owned(),
        format!("{beginning}\n\nQuestion: Who fell down the hole?\nAnswer:"),
    ];
    let lines: Vec<String> = (0..)
        .zip(&prompts)
        .map(|(index, input)| {
            json!({"index": index, "input": input, "outputs": ["x"], "max_new_tokens": 24})
                .to_string()
        })
        .collect();
    let input = folder.path().join("questions.jsonl");
    std::fs::write(&input, lines.join("\n")).unwrap();
    let results = folder.path().join("results");
    let flags = ["--top-k", "64", "--dense-tokens", "0"];
    let arguments = [&["jsonl", "--input", input.to_str().unwrap()], &flags[..]].concat();
    eval_json(&arguments, &results);
    for attention in ["full", "exact", "lfps"] {
        let records = records(&results.join(attention).join("questions.jsonl"));
        assert_eq!(records.len(), prompts.len());
        for (prompt, record) in prompts.iter().zip(&records) {
            let flags = [
                &["--raw", "--attention", attention, "-n", "24", "--temperature", "0"],
                &flags[..],
            ];
            let fresh = run_json(prompt, &flags.concat());
            let text = fresh["text"].as_str().unwrap().trim();
            assert_eq!(record["pred"].as_str().unwrap(), text, "{attention}: {prompt:.40}");
            assert_eq!(record["prompt_tokens"], fresh["prompt_tokens"]);
        }
        let read = |at: usize| records[at]["prefilled_tokens"].as_u64().unwrap();
        let length = |at: usize| records[at]["prompt_tokens"].as_u64().unwrap();
        // The second prompt goes on where the first one asks, and a further attention has read its prompt already.
        assert!(read(1) < length(1) * 2 / 3, "{} of {}", read(1), length(1));
        assert_eq!(read(0) < length(0), attention != "full");
    }
}

#[test]
fn prompts_of_ruler_are_answered_once_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let arguments = [
        "ruler",
        "--lengths",
        "512",
        "--tasks",
        "niah_single_1,qa_2",
        "--samples",
        "2",
        "--html",
        page.to_str().unwrap(),
    ];
    let first = eval_json(&arguments, folder.path());
    let row = |attention: &str| {
        let rows = first["rows"].as_array().unwrap();
        rows.iter().find(|row| row["attention"] == attention).unwrap()
    };
    assert_eq!(row("full")["score"], 100.0);
    assert_eq!((&row("lfps")["samples"], &row("lfps")["length"]), (&json!(2), &json!(512)));
    assert!(
        row("lfps")["link_bytes_per_token"].as_f64() < row("full")["link_bytes_per_token"].as_f64()
    );
    assert_eq!(first["paired"][1]["against"], "full");
    assert_eq!(first["left_out"][0]["task"], "qa_2");
    assert!(std::fs::read_to_string(&page).unwrap().contains("niah_single_1"));

    let since = Instant::now();
    assert_eq!(eval_json(&arguments, folder.path()), first);
    assert!(since.elapsed() < Duration::from_secs(20));
    let path = folder.path().join("lfps/512/niah_single_1.jsonl");
    assert_eq!(records(&path).len(), 2);
    let prediction = &records(&path)[0];
    for field in ["index", "pred", "input", "outputs", "others", "truncated", "length"] {
        assert!(!prediction[field].is_null(), "{field}");
    }
    assert!(
        prediction["input"].as_str().unwrap().contains("<|im_start|>assistant\n The special magic")
    );

    let other = eval(&[&arguments[..], &["--top-k", "16"]].concat(), folder.path());
    assert_eq!(other.status.code(), Some(2));
    assert!(stderr(&other).contains("top_k: 256 instead of 16"), "{}", stderr(&other));
}

#[test]
fn an_interrupted_evaluation_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["ruler", "--lengths", "1024", "--tasks", "vt,fwe", "--samples", "20"];
    let command = |arguments: &[&str]| {
        let mut command = hindsight();
        command.arg("eval").args(arguments).args(["--json", "--model"]).arg(model());
        command.arg("--output").arg(folder.path());
        command
    };
    let child = command(&arguments).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let first = folder.path().join("lfps/1024/vt.jsonl");
    support::wait_until("a prompt is answered", || first.exists());
    kill(child.id(), Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let partial: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(partial["complete"], false);
    let done = records(&first);
    assert!(!done.is_empty() && done.len() < 20);

    let few = ["ruler", "--lengths", "1024", "--tasks", "vt,fwe", "--samples", "2"];
    let whole = eval_json(&few, folder.path());
    assert_eq!(whole["complete"], true);
    assert_eq!(records(&first)[..done.len()], done);
}

#[test]
fn perplexity_is_the_same_under_every_attention_that_sees_every_key() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("book.txt");
    std::fs::write(&text, book(7000)).unwrap();
    let arguments = |top_k| {
        [
            "perplexity",
            "--text",
            text.to_str().unwrap(),
            "--context",
            "1024",
            "--stride",
            "64",
            "--windows",
            "2",
            "--dense-tokens",
            "0",
            "--top-k",
            top_k,
        ]
    };
    let rows = |top_k: &'static str, folder: &Path| {
        eval_json(&arguments(top_k), folder)["rows"].as_array().unwrap().clone()
    };
    let all = rows("8192", &folder.path().join("all"));
    let perplexity = |row: &Value| row["perplexity"].as_f64().unwrap();
    assert_eq!(all.len(), 3);
    for row in &all {
        assert_eq!((&row["tokens"], &row["context"]), (&json!(128), &json!(1024)));
        assert!((perplexity(row) / perplexity(&all[0]) - 1.0).abs() < 1e-6, "{row}");
    }
    assert!((2.0..60.0).contains(&perplexity(&all[0])), "{}", all[0]);
    let few = rows("64", &folder.path().join("few"));
    assert_eq!(perplexity(&few[0]), perplexity(&all[0]));
    assert!(few[2]["against"]["same_likeliest_percent"].as_f64().unwrap() > 80.0, "{}", few[2]);
}

#[test]
fn a_long_text_departs_where_its_predictions_first_differ() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("book.txt");
    std::fs::write(&text, book(7000)).unwrap();
    let page = folder.path().join("page.html");
    let arguments = |top_k| {
        let text = text.to_str().unwrap();
        let generation = ["generation", "--text", text, "--prompt-tokens", "1000"];
        let length = ["--tokens", "48", "--stretch", "16", "--html", page.to_str().unwrap()];
        [&generation[..], &length[..], &["--dense-tokens", "0", "--top-k", top_k]].concat()
    };
    let all = eval_json(&arguments("8192"), &folder.path().join("all"));
    assert_eq!(all["complete"], true);
    assert_eq!((all["rows"].as_array().unwrap().len(), &all["prompt_tokens"]), (3, &json!(1000)));
    for row in all["rows"].as_array().unwrap() {
        assert_eq!((&row["tokens"], &row["text"]), (&json!(48), &all["rows"][0]["text"]), "{row}");
    }
    for against in all["against"].as_array().unwrap() {
        assert_eq!((&against["against"], &against["departure"]), (&json!("full"), &Value::Null));
        assert_eq!(against["stretches"].as_array().unwrap().len(), 3);
        assert!(against["mean_difference"].as_f64().unwrap() < 1e-5, "{against}");
    }

    let output = folder.path().join("few");
    let few = eval_json(&arguments("16"), &output);
    assert_eq!(few["rows"][0]["text"], all["rows"][0]["text"]);
    let written = records(&output.join("full/generated.jsonl")).remove(0);
    for (at, attention) in ["exact", "lfps"].into_iter().enumerate() {
        let predicted = records(&output.join(attention).join("predicted.jsonl")).remove(0);
        let pairs = || {
            let likeliest = predicted["likeliest"].as_array().unwrap().iter();
            likeliest.zip(written["tokens"].as_array().unwrap())
        };
        assert_eq!(pairs().count(), 48);
        let departs = pairs().position(|(likeliest, token)| likeliest != token);
        let departure = &few["against"][at]["departure"]["after_tokens"];
        assert_eq!(departure.as_u64(), departs.map(|place| place as u64), "{attention}");
    }
    let since = Instant::now();
    assert_eq!(eval_json(&arguments("16"), &output), few);
    assert!(since.elapsed() < Duration::from_secs(20));
    assert!(std::fs::read_to_string(&page).unwrap().contains("Text of lfps"));
}

#[test]
fn a_broken_line_ends_the_command_before_anything_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("broken.jsonl");
    std::fs::write(&input, "{\"index\": 0, \"input\": \"a\", \"outputs\": [\"b\"]}\n{\"index\"\n")
        .unwrap();
    let output =
        eval(&["jsonl", "--input", input.to_str().unwrap()], &folder.path().join("results"));
    assert_eq!(output.status.code(), Some(5));
    let error: Value = serde_json::from_str(stderr(&output).trim()).unwrap();
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("broken.jsonl:2: "), "{message}");
}
