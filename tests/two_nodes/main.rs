//! Runs on machines of several nodes, emulated in software: where the kernel says that processes and the arena are, as seen
//! from outside, and whether Hindsight says the same.
//!
//! Not among the tests of every run (`test = false`): each machine takes a minute or two. `boot` says what it needs.

mod guest;
#[path = "../support/mod.rs"]
mod support;

use guest::{Guest, Node, Run};
use serde_json::Value;

const GIB: u64 = 1 << 30;

fn chosen<'r>(run: &'r Run, what: &str) -> &'r Value {
    &run.report["placement"]["chosen"][what]["value"]
}

/// Every mapping of the arena that anybody has touched lies on `node`, with at least `bytes` in one of them.
fn assert_arena_on(run: &Run, node: u32, bytes: u64) {
    let touched: Vec<_> =
        run.mappings().filter(|mapping| !mapping.bytes_by_node.is_empty()).collect();
    for mapping in &touched {
        let nodes: Vec<_> = mapping.bytes_by_node.keys().collect();
        assert_eq!(nodes, [&node], "{}", mapping.line);
    }
    let most = touched.iter().filter_map(|mapping| mapping.bytes_by_node.get(&node)).max();
    assert!(most.is_some_and(|&most| most >= bytes), "{most:?} bytes are less than {bytes}");
    let got = &run.report["placement"]["got"];
    let stated = got["arena_bytes_by_node"].as_object().unwrap();
    assert_eq!(stated.keys().collect::<Vec<_>>(), [&node.to_string()], "{got}");
    assert_eq!(stated[&node.to_string()], got["arena_bytes"], "{got}");
}

/// All threads of a process were only ever allowed to run on `cpus`, and seen on no other.
fn assert_threads_on(run: &Run, role: &str, cpus: &[u32]) {
    let threads: Vec<_> = run.threads(role).collect();
    assert!(!threads.is_empty(), "no thread of the {role} was seen");
    for thread in threads {
        let allowed = thread.allowed.iter().all(|cpu| cpus.contains(cpu));
        assert!(allowed && cpus.contains(&thread.last), "{role}: {thread:?} is not on {cpus:?}");
    }
}

#[test]
fn indexer_and_arena_keep_to_one_node_and_the_worker_to_the_other() {
    let guest = Guest::boot(
        "two_nodes",
        &[Node { cpus: "0-1", bytes: GIB }, Node { cpus: "2-3", bytes: GIB }],
        &[],
    );
    let topology: Value = serde_json::from_str(guest.section("topology")).unwrap();
    assert_eq!(topology["nodes"].as_array().unwrap().len(), 2);
    assert_eq!(topology["choice"]["indexer_core"]["value"], 3);
    assert_eq!(topology["choice"]["arena_node"]["value"], 1);

    let run = guest.run("separate");
    assert_eq!(run.warnings(), 0);
    let placement = &run.report["placement"];
    assert_eq!(placement["got"]["indexer_cpus"], "3");
    assert_eq!(placement["got"]["worker_cpus"], "0-1");
    assert_eq!(placement["got"]["arena_policy"], "bind:1");
    assert_eq!(placement["cost"]["idle_cpus"], "2");
    assert_eq!(placement["cost"]["remote_arena_bytes"], 0);
    assert_threads_on(&run, "cpu-indexer", &[3]);
    assert_threads_on(&run, "gpu-worker", &[0, 1]);
    assert!(run.mappings().all(|mapping| mapping.policy == "bind:1"));
    let kv_bytes = run.report["kv_bytes"].as_u64().unwrap();
    assert_arena_on(&run, 1, kv_bytes);
    // The nodes' own books agree: shared memory grew on the second, not on the first.
    let [first, second] = [0, 1].map(|node| run.growth(node, "Shmem"));
    assert!(second >= kv_bytes && first < kv_bytes / 10, "{first} {second} {kv_bytes}");
    let decoded = run.report["decode_steps"].as_u64().unwrap();
    assert!(decoded > 0 && run.report["candidates_per_selection"].as_f64().unwrap() > 0.0);

    let run = guest.run("crossed");
    assert_eq!(run.warnings(), 0);
    assert_threads_on(&run, "cpu-indexer", &[3]);
    assert_threads_on(&run, "gpu-worker", &[2, 3]);
    assert_arena_on(&run, 0, run.report["kv_bytes"].as_u64().unwrap());

    let run = guest.run("joined");
    assert_eq!(run.warnings(), 0);
    assert_arena_on(&run, 1, run.report["kv_bytes"].as_u64().unwrap());
    assert!(run.report["placement"]["got"]["arena_huge_bytes"].as_u64().unwrap() > 0);
    // A slab of 1,024 tokens, of which a few are mapped.
    let [first, second] = [0, 1].map(|node| run.growth(node, "ShmemHugePages"));
    assert!(first == 0 && second >= 20 << 20, "{first} {second}");

    let run = guest.run("small");
    assert_eq!(run.warnings(), 0);
    assert_eq!(run.report["placement"]["got"]["arena_huge_bytes"], 0);
    assert_eq!(run.growth(1, "ShmemHugePages"), 0);
    assert_arena_on(&run, 1, run.report["kv_bytes"].as_u64().unwrap());

    guest_with_reserved_pages(&guest);
    guest_in_a_control_group(&guest);
    guest_with_a_full_node(&guest);
}

/// Reserved pages of the second node, though both have some: the launcher, which takes the arena's first, runs on any node.
fn guest_with_reserved_pages(guest: &Guest) {
    let run = guest.run("reserved");
    assert_eq!(run.warnings(), 0);
    assert!(run.mappings().all(|mapping| mapping.line.contains(" huge")));
    assert_arena_on(&run, 1, 20 << 20);
}

fn guest_in_a_control_group(guest: &Guest) {
    let run = guest.run("confined");
    assert_eq!(chosen(&run, "indexer_core"), 2);
    assert_eq!(chosen(&run, "arena_node"), 0);
    let reason = run.report["placement"]["chosen"]["arena_node"]["reason"].to_string();
    assert!(reason.contains("node 1 may not be used"), "{reason}");
    assert_threads_on(&run, "cpu-indexer", &[2]);
    assert_threads_on(&run, "gpu-worker", &[0, 1, 2]);
    assert_arena_on(&run, 0, run.report["kv_bytes"].as_u64().unwrap());
    assert_eq!(guest.run("confined-named").refusal(7), "no_such_arena_node");
    assert_eq!(guest.run("confined-core").refusal(7), "no_such_core");
}

/// A node that is preferred gives way with a warning. One that is named is refused: once, the kernel killed the launcher.
fn guest_with_a_full_node(guest: &Guest) {
    let run = guest.run("full");
    assert_eq!((chosen(&run, "arena_node"), run.warnings()), (&1.into(), 1));
    let remote = run.report["placement"]["cost"]["remote_arena_bytes"].as_u64().unwrap();
    let seen = run.mappings().filter_map(|mapping| mapping.bytes_by_node.get(&0).copied()).max();
    assert_eq!(seen, Some(remote));
    assert_eq!(guest.run("full-named").refusal(6), "arena_node_too_small");
}

#[test]
fn a_node_without_memory_runs_the_indexer_and_borrows_the_nearest_memory() {
    let guest = Guest::boot(
        "bare_node",
        &[
            Node { cpus: "0", bytes: GIB / 2 },
            Node { cpus: "1-2", bytes: GIB },
            Node { cpus: "3", bytes: 0 },
        ],
        &[(0, 1, 30), (0, 2, 15), (1, 2, 20)],
    );
    let topology: Value = serde_json::from_str(guest.section("topology")).unwrap();
    assert_eq!(topology["nodes"][2]["memory_bytes"], 0);
    assert_eq!(topology["nodes"][2]["memory_allowed"], false);
    assert_eq!(topology["nodes"][2]["distances"], Value::from(vec![15, 20, 10]));
    assert_eq!(topology["choice"]["arena_node"]["value"], 1);

    let run = guest.run("near");
    assert_eq!((chosen(&run, "arena_node"), run.warnings()), (&0.into(), 0));
    assert_threads_on(&run, "cpu-indexer", &[3]);
    assert_arena_on(&run, 0, run.report["kv_bytes"].as_u64().unwrap());
    assert_eq!(guest.run("bare").refusal(7), "no_such_arena_node");
    assert_eq!(guest.run("no-such-node").refusal(7), "no_such_node");
}
