//! What running instances count: for Prometheus, and as rates for people.

mod rates;

use std::fmt::Write;

use hindsight_protocol::telemetry::{Telemetry, TelemetryError, TelemetryPage};

pub use rates::{Rates, Sample};

/// A number that only grows while a run goes on.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name in Prometheus; where vLLM counts the same, with vLLM's stem.
    pub name: &'static str,
    /// Its unit; 1 for sums of shares.
    pub unit: &'static str,
    /// What it counts.
    pub help: &'static str,
    value: fn(&Telemetry) -> f64,
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
const fn number(count: u64) -> f64 {
    count as f64
}

/// Nanoseconds as seconds.
fn seconds(nanoseconds: u64) -> f64 {
    number(nanoseconds) / 1e9
}

/// Every metric; docs/metrics.md lists the same.
pub const METRICS: [Metric; 33] = [
    Metric {
        name: "hindsight_prompt_tokens_total",
        unit: "tokens",
        help: "Prompt tokens read.",
        value: |page| number(page.worker.prefill_tokens.get()),
    },
    Metric {
        name: "hindsight_generation_tokens_total",
        unit: "tokens",
        help: "Tokens decoded.",
        value: |page| number(page.worker.decode_tokens.get()),
    },
    Metric {
        name: "hindsight_decode_seconds_total",
        unit: "seconds",
        help: "Seconds of decode steps.",
        value: |page| seconds(page.worker.decode_ns.get()),
    },
    Metric {
        name: "hindsight_attention_seconds_total",
        unit: "seconds",
        help: "Seconds of attention in decode steps.",
        value: |page| seconds(page.worker.attention_ns.get()),
    },
    Metric {
        name: "hindsight_waiting_seconds_total",
        unit: "seconds",
        help: "Seconds that decode steps waited for selections.",
        value: |page| seconds(page.worker.waiting_ns.get()),
    },
    Metric {
        name: "hindsight_sampling_seconds_total",
        unit: "seconds",
        help: "Seconds of choosing tokens.",
        value: |page| seconds(page.worker.sampling_ns.get()),
    },
    Metric {
        name: "hindsight_selection_seconds_total",
        unit: "seconds",
        help: "Seconds of selections on the indexer's core.",
        value: |page| seconds(page.indexer.select_ns.get()),
    },
    Metric {
        name: "hindsight_appended_bytes_total",
        unit: "bytes",
        help: "Bytes of new keys and values stored in host memory.",
        value: |page| number(page.worker.appended_bytes.get()),
    },
    Metric {
        name: "hindsight_shipped_bytes_total",
        unit: "bytes",
        help: "Bytes of selected blocks that travelled to the device, or would have on the CPU.",
        value: |page| number(page.indexer.shipped_bytes.get()),
    },
    Metric {
        name: "hindsight_cache_queries_total",
        unit: "blocks",
        help: "Selected blocks looked up in the device's block cache.",
        value: |page| number(page.indexer.hit_blocks.get() + page.indexer.miss_blocks.get()),
    },
    Metric {
        name: "hindsight_cache_hits_total",
        unit: "blocks",
        help: "Selected blocks that the device's block cache held.",
        value: |page| number(page.indexer.hit_blocks.get()),
    },
    Metric {
        name: "hindsight_cache_evictions_total",
        unit: "blocks",
        help: "Blocks of the device's block cache that made room for others.",
        value: |page| number(page.indexer.evictions.get()),
    },
    Metric {
        name: "hindsight_selections_total",
        unit: "selections",
        help: "Selections, one for each step, layer and KV head.",
        value: |page| number(page.indexer.selections.get()),
    },
    Metric {
        name: "hindsight_candidates_total",
        unit: "tokens",
        help: "Tokens whose keys were scored by selections.",
        value: |page| number(page.indexer.candidates.get()),
    },
    Metric {
        name: "hindsight_key_bytes_read_total",
        unit: "bytes",
        help: "Bytes of keys that selections read in host memory.",
        value: |page| number(page.indexer.key_bytes.get()),
    },
    Metric {
        name: "hindsight_sketch_bytes_read_total",
        unit: "bytes",
        help: "Bytes of codes, tables and history that selections read.",
        value: |page| number(page.indexer.sketch_bytes.get()),
    },
    Metric {
        name: "hindsight_repairs_total",
        unit: "selections",
        help: "Selections that read more than usual, as the query had drifted.",
        value: |page| number(page.indexer.repairs.get()),
    },
    Metric {
        name: "hindsight_rehearsed_selections_total",
        unit: "selections",
        help: "Selections from candidates that an expected query had proposed before the query came.",
        value: |page| number(page.indexer.rehearsed.get()),
    },
    Metric {
        name: "hindsight_misled_selections_total",
        unit: "selections",
        help: "Selections for which an expected query had proposed in vain, as the query turned out too far from it.",
        value: |page| number(page.indexer.misled.get()),
    },
    Metric {
        name: "hindsight_dense_steps_total",
        unit: "steps",
        help: "Decode steps that attended to every key, as the context was short.",
        value: |page| number(page.worker.dense_steps.get()),
    },
    Metric {
        name: "hindsight_seed_queries_total",
        unit: "queries",
        help: "Prompt queries that the index learned from.",
        value: |page| number(page.indexer.seeds.get()),
    },
    Metric {
        name: "hindsight_audits_total",
        unit: "audits",
        help: "Selections checked against an exact scan.",
        value: |page| number(page.indexer.audits.get()),
    },
    Metric {
        name: "hindsight_audit_recall_sum",
        unit: "1",
        help: "Sum over audits of the share of the exact top-k that was selected.",
        value: |page| page.indexer.audit_recall.get(),
    },
    Metric {
        name: "hindsight_audit_mass_sum",
        unit: "1",
        help: "Sum over audits of the selection's softmax mass over that of the exact top-k.",
        value: |page| page.indexer.audit_mass.get(),
    },
    Metric {
        name: "hindsight_audit_bytes_read_total",
        unit: "bytes",
        help: "Bytes of keys that audits read in host memory.",
        value: |page| number(page.indexer.audit_key_bytes.get()),
    },
    Metric {
        name: "hindsight_kv_overflows_total",
        unit: "rows",
        help: "Keys or values beyond the range of the KV cache's element type.",
        value: |page| number(page.worker.overflows.get()),
    },
    Metric {
        name: "hindsight_helper_stalls_total",
        unit: "stalls",
        help: "Times that a decode thread lost its core in the midst of a task.",
        value: |page| number(page.worker.helper_stalls.get()),
    },
    Metric {
        name: "hindsight_gpu_miss_bytes_total",
        unit: "bytes",
        help: "Bytes of selected blocks that travelled to a GPU.",
        value: |page| number(page.worker.miss_bytes.get()),
    },
    Metric {
        name: "hindsight_gpu_passing_bytes_total",
        unit: "bytes",
        help: "Bytes of keys and values that passed through a GPU, for attention to the whole text.",
        value: |page| number(page.worker.passing_bytes.get()),
    },
    Metric {
        name: "hindsight_gpu_list_bytes_total",
        unit: "bytes",
        help: "Bytes of lists of blocks that travelled to a GPU.",
        value: |page| number(page.worker.list_bytes.get()),
    },
    Metric {
        name: "hindsight_gpu_to_host_bytes_total",
        unit: "bytes",
        help: "Bytes of new keys, values and queries that travelled from a GPU.",
        value: |page| number(page.worker.to_host_bytes.get()),
    },
    Metric {
        name: "hindsight_gpu_staged_bytes_total",
        unit: "bytes",
        help: "Bytes that the worker copied for a GPU, as the KV cache could not be page-locked.",
        value: |page| number(page.worker.staged_bytes.get()),
    },
    Metric {
        name: "hindsight_gpu_cache_mismatches_total",
        unit: "blocks",
        help: "Blocks that were taken to be in a GPU's block cache and were not.",
        value: |page| number(page.worker.cache_mismatches.get()),
    },
];

/// A running instance.
#[derive(Debug)]
pub struct Instance {
    /// Process id of its launcher.
    pub pid: u32,
    /// Its counters.
    pub page: TelemetryPage,
}

/// The instances that run now and may be looked at, in the order in which they began. Warns of those of another version.
#[must_use]
pub fn instances() -> Vec<Instance> {
    let open = |pid| match TelemetryPage::open(&TelemetryPage::name_of(pid)) {
        Ok(page) => Some(page),
        Err(TelemetryError::Foreign(_)) => {
            tracing::warn!(
                pid,
                "an instance of another version of Hindsight is left out; that version can look at it"
            );
            None
        }
        // It has ended meanwhile, or is another user's.
        Err(TelemetryError::System { .. }) => None,
    };
    let mut pids = TelemetryPage::pids();
    pids.retain(|&pid| start_time(pid).is_some());
    pids.sort_by_key(|&pid| start_time(pid));
    pids.into_iter().filter_map(|pid| open(pid).map(|page| Instance { pid, page })).collect()
}

/// When a process began, in clock ticks since the machine did; none if there is no such process.
fn start_time(pid: u32) -> Option<u64> {
    /// Its place among what follows the program's name, which stands in brackets and may hold anything.
    const FIELD: usize = 19;
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = status.rsplit_once(')')?;
    fields.split_whitespace().nth(FIELD)?.parse().ok()
}

/// All metrics of all instances in Prometheus' text format.
#[must_use]
pub fn exposition(instances: &[Instance]) -> String {
    let mut out = String::new();
    for Metric { name, help, value, .. } in METRICS {
        // Writing to a string cannot fail.
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} counter\n");
        for Instance { pid, page } in instances {
            let _ = writeln!(out, "{name}{{pid=\"{pid}\"}} {}", value(page));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_metric_is_documented_with_what_it_counts() {
        let documented = include_str!("../../../docs/metrics.md");
        for Metric { name, unit, help, .. } in METRICS {
            let row = format!("| `{name}` | {unit} | {help} |");
            assert!(documented.contains(&row), "docs/metrics.md lacks: {row}");
        }
        let names: HashSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
    }

    #[test]
    fn a_process_began_after_its_parent() {
        let own = start_time(std::process::id()).unwrap();
        assert!(own >= start_time(std::os::unix::process::parent_id()).unwrap());
        assert_eq!(start_time(u32::MAX), None);
    }

    #[test]
    fn counters_are_exposed_with_their_instance() {
        let name = format!("/hindsight-test-exposition-{}", std::process::id());
        let page = TelemetryPage::create(&name).unwrap();
        page.worker.decode_tokens.add(5);
        page.worker.decode_ns.add(1_500_000_000);
        let text = exposition(&[Instance { pid: 7, page }]);
        assert!(text.contains("\nhindsight_generation_tokens_total{pid=\"7\"} 5\n"), "{text}");
        assert!(text.contains("\nhindsight_decode_seconds_total{pid=\"7\"} 1.5\n"), "{text}");
        assert_eq!(text.matches("# TYPE").count(), METRICS.len());
    }
}
