//! Measured speeds as tables.

use std::fmt::Write;

use hindsight_cpu_indexer::bench::IndexBenchRow;

/// One line for each context, under a heading.
#[must_use]
pub fn index_table(rows: &[IndexBenchRow]) -> String {
    let mut out = format!("{:>8}  {:>22}  {:>36}  {:>36}\n", "", "exact", "lfps", "history alone");
    let _ = writeln!(
        out,
        "{:>8}  {:>8} {:>6} {:>6}  {:>7} {:>6} {:>7} {:>6} {:>6}  {:>7} {:>6} {:>7} {:>6} {:>6}",
        "context",
        "us",
        "of bw",
        "scan",
        "us",
        "speed",
        "bytes",
        "recall",
        "mass",
        "us",
        "speed",
        "bytes",
        "recall",
        "mass",
    );
    for row in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{:>8}  {:>8.0} {:>6.2} {:>6.2}  {:>7.0} {:>5.1}x {:>7.3} {:>6.3} {:>6.4}  {:>7.0} {:>5.1}x {:>7.3} {:>6.3} {:>6.4}",
            row.context,
            row.exact_us,
            row.exact_bandwidth_share,
            row.exact_scan_bandwidth_share,
            row.lfps_us,
            row.speedup,
            row.lfps_bytes / row.exact_bytes,
            row.lfps_recall,
            row.lfps_mass,
            row.history_us,
            row.history_speedup,
            row.history_bytes / row.exact_bytes,
            row.history_recall,
            row.history_mass,
        );
    }
    out
}
