//! The figures of replays as a table.

use std::fmt::Write;

use hindsight_cpu_indexer::replay::{CacheReport, ReplayReport};

/// One line for each replay, under a heading.
#[must_use]
pub fn table(reports: &[ReplayReport]) -> String {
    let trace_width = trace_width(reports);
    let mut out = format!(
        "{:trace_width$}  {:14} {:>5} {:>10} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>10} {:>8} {:>8} {:>7} {:>6} {:>6}\n",
        "trace",
        "policy",
        "top-k",
        "candidates",
        "bytes",
        "recall",
        "mass",
        "p1",
        "worst",
        "blocks",
        "block mass",
        "block p1",
        "error",
        "us",
        "speed",
        "repair",
    );
    for report in reports {
        let ReplayReport { trace, policy, top_k, candidates_mean, bytes_share, .. } = report;
        let ReplayReport { recall_mean, mass_mean, mass_p1, mass_min, blocks_mean, .. } = report;
        let ReplayReport { block_mass_mean, block_mass_p1, output_error_mean, .. } = report;
        let ReplayReport { select_us_mean, speedup, repair_rate, .. } = report;
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{trace:trace_width$}  {policy:14} {top_k:>5} {candidates_mean:>10.0} {bytes_share:>6.3} \
             {recall_mean:>6.3} {mass_mean:>6.4} {mass_p1:>6.4} {mass_min:>6.4} {blocks_mean:>6.0} \
             {block_mass_mean:>10.4} {block_mass_p1:>8.4} {output_error_mean:>8.4} {select_us_mean:>7.1} {speedup:>5.1}x {repair_rate:>6.3}"
        );
    }
    out
}

/// One line for each block cache of each replay, under a heading; nothing if no cache was asked for.
#[must_use]
pub fn cache_table(reports: &[ReplayReport]) -> String {
    if reports.iter().all(|report| report.caches.is_empty()) {
        return String::new();
    }
    let trace_width = trace_width(reports);
    let mut out = format!(
        "{:trace_width$}  {:14} {:>5} {:>6} {:8} {:>6} {:>7} {:>7} {:>9} {:>9} {:>11} {:>7}\n",
        "trace",
        "policy",
        "top-k",
        "cache",
        "eviction",
        "hits",
        "misses",
        "first",
        "evictions",
        "KiB/token",
        "of selected",
        "of full",
    );
    for ReplayReport { trace, policy, top_k, caches, .. } in reports {
        for cache in caches {
            let CacheReport { cache_blocks, eviction, hit_rate, misses_mean, .. } = cache;
            let CacheReport { first_misses_mean, evictions_mean, .. } = cache;
            let kib = cache.shipped_bytes_per_token / 1024.0;
            let of_selected = cache.shipped_bytes_per_token / cache.selected_bytes_per_token;
            let of_full = cache.shipped_bytes_per_token / cache.full_bytes_per_token;
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "{trace:trace_width$}  {policy:14} {top_k:>5} {cache_blocks:>6} {eviction:8} {hit_rate:>6.3} \
                 {misses_mean:>7.2} {first_misses_mean:>7.2} {evictions_mean:>9.2} {kib:>9.1} {of_selected:>11.4} {of_full:>7.4}"
            );
        }
    }
    out
}

fn trace_width(reports: &[ReplayReport]) -> usize {
    reports.iter().map(|report| report.trace.len()).max().unwrap_or(0).max(5)
}
