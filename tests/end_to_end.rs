//! A real model reads a long text, and its answers do not depend on how it attends.

mod support;

use support::{book, run_json, token_ids};

/// Prose of about 7,200 tokens with a sentence hidden at `depth`, and a question about it.
fn needle(depth: f64, number: &str) -> String {
    let text = book(26_000);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let at = (text.len() as f64 * depth) as usize;
    let at = text[..at].rfind(".\n").map_or(0, |end| end + 2);
    let (before, after) = text.split_at(at);
    let needle = format!("The special magic number for Lisbon is {number}.");
    let question = "What is the special magic number for Lisbon mentioned in the text above?";
    format!("{before}\n{needle}\n{after}\n\n{question}")
}

#[test]
fn a_needle_in_7200_tokens_is_found_by_every_attention_at_every_depth() {
    for (depth, number) in [(0.1, "4071539"), (0.5, "8263917"), (0.9, "5519042")] {
        let prompt = needle(depth, number);
        for attention in ["full", "exact", "lfps"] {
            let run = run_json(&prompt, &["--attention", attention, "--top-k", "256", "-n", "32"]);
            let tokens = run["prompt_tokens"].as_u64().unwrap();
            assert!((7000..7700).contains(&tokens), "{tokens} tokens");
            let text = run["text"].as_str().unwrap();
            assert!(text.contains(number), "{attention} at depth {depth}: {text}");
            if attention == "lfps" {
                assert_ships_little_and_well(&run);
            }
        }
    }
}

/// At this length a step ships less than a tenth of what full attention would, and the audit finds little missing.
fn assert_ships_little_and_well(run: &serde_json::Value) {
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    let shipped = number(&run["link_bytes_per_token"]);
    let full = number(&run["full_link_bytes_per_token"]);
    assert!(shipped < full / 10.0, "{shipped} of {full} bytes per token");
    assert!(number(&run["audit"]["mass"]) > 0.98, "{}", run["audit"]);
    assert!(number(&run["audit"]["samples"]) > 0.0);
}

#[test]
fn with_a_budget_of_the_whole_context_every_attention_gives_the_same_tokens() {
    for (prompt, raw) in [("Once upon a time, in a house by the sea,", true), (book(7_000), false)]
    {
        let tokens = |attention: &str| {
            let mut arguments = vec!["--attention", attention, "--top-k", "8192", "-n", "64"];
            arguments.extend(["--dense-tokens", "0"]);
            if raw {
                arguments.push("--raw");
            }
            token_ids(&run_json(prompt, &arguments))
        };
        let full = tokens("full");
        assert!(full.len() > 10, "{} tokens", full.len());
        assert_eq!(tokens("exact"), full);
        assert_eq!(tokens("lfps"), full);
    }
}

/// What a run counts under `timing`, in a text of some 2,000 tokens of which few are selected.
fn counted(timing: &str, flags: &[&str]) -> serde_json::Value {
    let few = ["--top-k", "128", "-n", "24", "--timing", timing];
    run_json(book(7_000), &[&few[..], flags].concat())
}

#[test]
fn most_candidates_are_proposed_before_their_query_comes_and_late_ones_are_the_same() {
    let number = |run: &serde_json::Value, key: &str| run[key].as_f64().unwrap();
    let rehearsed = counted("rehearsed", &["--dense-tokens", "0"]);
    // The first head of each layer at the least, were the indexer never put off its core.
    assert!(number(&rehearsed, "rehearsed_rate") > 0.1, "{rehearsed}");
    assert!(number(&rehearsed, "misled_rate") < 0.1, "{rehearsed}");
    assert!(number(&rehearsed["audit"], "mass") > 0.95, "{}", rehearsed["audit"]);
    assert_eq!(rehearsed["dense_steps"], 0);
    // On one core the indexer is late as often as not.
    let late = counted("rehearsed", &["--dense-tokens", "0", "--threads", "1"]);
    assert_eq!(token_ids(&late), token_ids(&rehearsed));
    let now = counted("now", &["--dense-tokens", "0"]);
    assert_eq!(number(&now, "rehearsed_rate"), 0.0);
}

#[test]
fn a_short_context_is_attended_to_whole_until_it_is_long() {
    let full = token_ids(&run_json(book(7_000), &["--attention", "full", "-n", "24"]));
    let short = counted("rehearsed", &["--dense-tokens", "4096"]);
    assert_eq!((&short["dense_steps"], token_ids(&short)), (&short["decode_steps"], full));
    // The index knows the tokens that it has not been asked about.
    let prompt = short["prompt_tokens"].as_u64().unwrap();
    let limit = (prompt + 10).to_string();
    let both = counted("rehearsed", &["--dense-tokens", &limit]);
    assert_eq!(both["dense_steps"], 10);
    assert!(both["audit"]["mass"].as_f64().unwrap() > 0.95, "{}", both["audit"]);
}

#[test]
fn dense_layers_select_once_their_context_is_long() {
    let full = run_json(book(7_000), &["--attention", "full", "-n", "24"]);
    let limit = (full["prompt_tokens"].as_u64().unwrap() + 10).to_string();
    let limited = ["--dense-tokens", "0", "--dense-layer-tokens", limit.as_str()];
    let whole = run_json(book(7_000), &[&["--top-k", "8192", "-n", "24"], &limited[..]].concat());
    assert_eq!(token_ids(&whole), token_ids(&full));

    let folder = tempfile::tempdir().unwrap();
    let profile = ["--profile", folder.path().to_str().unwrap()];
    let selecting = counted("rehearsed", &[&limited[..], &profile].concat());
    assert!(selecting["audit"]["mass"].as_f64().unwrap() > 0.95, "{}", selecting["audit"]);
    let summary = std::fs::read_to_string(folder.path().join("summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    let asked = |layer: usize| summary["layers"][layer]["bytes"]["query"].as_u64().unwrap();
    let steps = selecting["decode_steps"].as_u64().unwrap();
    assert!(asked(2) > 0);
    for dense in [0, 1] {
        assert_eq!(asked(dense) * steps, asked(2) * (steps - 10), "layer {dense}");
    }
}

#[test]
fn the_same_seed_gives_the_same_text_whatever_the_threads() {
    let cores = std::thread::available_parallelism().unwrap().get().to_string();
    let tokens = |seed: &str, threads: &str| {
        let flags = ["--temperature", "1", "--seed", seed, "--threads", threads, "-n", "24"];
        token_ids(&run_json("Tell me a story about a lighthouse.", &flags))
    };
    let first = tokens("7", &cores);
    assert_eq!(tokens("7", "1"), first);
    assert_ne!(tokens("8", &cores), first);
}

#[test]
fn the_system_message_and_the_template_reach_the_model() {
    let plain = run_json("Hello", &["-n", "1"])["prompt_tokens"].as_u64().unwrap();
    let raw = run_json("Hello", &["-n", "1", "--raw"])["prompt_tokens"].as_u64().unwrap();
    let system = ["-n", "1", "--system", "You are a lighthouse keeper and answer in one word."];
    let with_system = run_json("Hello", &system)["prompt_tokens"].as_u64().unwrap();
    assert_eq!(raw, 1);
    assert!(plain > raw && with_system != plain, "{raw}, {plain}, {with_system}");
}
