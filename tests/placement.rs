//! Where a run is placed: as asked, or refused with the reason; and what it says of it.

mod support;

use serde_json::Value;
use support::{run_with_input, stderr};

const SHORT: [&str; 4] = ["-n", "4", "--top-k", "16"];

/// What a run reports of its placement; or, where this machine or a sandbox around the tests does not give what was asked
/// for by name, the kind of its refusal, which must be one of `refusals`.
fn placement(flags: &[&str], refusals: &[&str]) -> Option<Value> {
    let arguments: Vec<&str> = SHORT.iter().chain(flags).copied().collect();
    let output = run_with_input(b"Tell me a story about a lighthouse.", &arguments);
    if output.status.success() {
        let mut run: Value = serde_json::from_slice(&output.stdout).unwrap();
        return Some(run["placement"].take());
    }
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    let kind = error["error"]["kind"].as_str().unwrap();
    assert!(refusals.contains(&kind), "{flags:?}: {error}");
    None
}

fn allowed() -> Vec<u32> {
    let list = support::status_field(std::process::id(), "Cpus_allowed_list:").unwrap();
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse::<u32>().unwrap()..=last.parse().unwrap()
    };
    list.split(',').flat_map(range).collect()
}

#[test]
fn without_a_wish_a_run_gets_what_it_chose_and_says_so() {
    let report = placement(&[], &[]).unwrap();
    let (chosen, got) = (&report["chosen"], &report["got"]);
    assert_eq!(got["indexer_cpus"], chosen["indexer_core"]["value"].to_string());
    assert!(got["arena_bytes"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(report["cost"]["remote_arena_bytes"], 0);
    assert_eq!(report["warnings"].as_array().unwrap().len(), 0, "{report}");
    assert_eq!(report["asked"]["placement"], "auto");
}

#[test]
fn cpus_that_are_named_are_those_that_are_used() {
    let cpus = allowed();
    let (first, last) = (cpus[0].to_string(), cpus[cpus.len() - 1].to_string());
    let report = placement(&["--worker-cpus", &last, "--indexer-core", &first], &[]).unwrap();
    assert_eq!(
        (&report["got"]["indexer_cpus"], &report["got"]["worker_cpus"]),
        (&first.into(), &last.clone().into())
    );
    assert_eq!(report["asked"]["worker_cpus"], last);
}

#[test]
fn an_arena_is_bound_to_the_node_that_is_named() {
    if let Some(report) = placement(&["--arena-node", "0"], &["arena_node", "no_such_arena_node"]) {
        assert_eq!(report["got"]["arena_policy"], "bind:0", "{report}");
        let by_node = report["got"]["arena_bytes_by_node"].as_object().unwrap();
        assert_eq!(by_node.keys().collect::<Vec<_>>(), ["0"]);
    }
}

#[test]
fn a_priority_is_got_or_refused_by_name() {
    let normal = placement(&[], &[]).unwrap();
    assert_eq!(normal["got"]["indexer_scheduling"]["policy"], "other", "{normal}");
    assert_eq!(normal["cost"]["real_time_cpu"], Value::Null, "{normal}");
    if let Some(report) = placement(&["--indexer-priority", "high"], &["priority_refused"]) {
        assert_eq!(report["asked"]["indexer_priority"], "high", "{report}");
        assert_eq!(report["got"]["indexer_scheduling"]["policy"], "round-robin", "{report}");
        assert_eq!(report["cost"]["real_time_cpu"], report["chosen"]["indexer_core"]["value"]);
        assert_eq!(report["warnings"].as_array().unwrap().len(), 0, "{report}");
    }
}

#[test]
fn huge_pages_are_got_or_refused_by_name() {
    for size in ["2M", "1G"] {
        if let Some(report) = placement(&["--hugepages", size], &["huge_pages"]) {
            let huge = report["got"]["arena_huge_bytes"].as_u64().unwrap();
            let warned = report["warnings"].to_string().contains("huge pages");
            assert!(huge > 0 || warned, "{report}");
            assert_eq!(report["asked"]["hugepages"], size);
        }
    }
}

#[test]
fn what_is_named_and_not_there_is_refused() {
    for (flag, value, refusal) in [
        ("--indexer-node", "900", "no_such_node"),
        ("--arena-node", "900", "no_such_arena_node"),
        ("--worker-cpus", "8000", "no_such_worker_cpus"),
    ] {
        assert!(placement(&[flag, value], &[refusal]).is_none());
    }
    let output = run_with_input(b"Hello", &["--worker-cpus", "all"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("\"all\" is no list"), "{}", stderr(&output));
}
