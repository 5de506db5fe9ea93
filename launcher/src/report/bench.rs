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

/// Where keys and queries come from, and how alike successive steps are.
#[must_use]
pub fn likeness(trace: &str, rows: &[IndexBenchRow]) -> String {
    let Some(last) = rows.last() else { return String::new() };
    format!(
        "keys and queries of {trace}, repeated with noise: successive queries have a cosine of {:.2}, successive exact \
         selections share {:.0} % at {} tokens\n",
        last.query_cosine_mean,
        100.0 * last.topk_overlap_mean,
        last.context,
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A context whose exact step takes `exact_us`, that of LFPS half and that of history a quarter.
    pub(in crate::report) fn row(context: usize, exact_us: f64) -> IndexBenchRow {
        IndexBenchRow {
            context,
            kv_heads: 8,
            group: 4,
            head_dim: 128,
            top_k: 2048,
            exact_us,
            lfps_us: exact_us / 2.0,
            history_us: exact_us / 4.0,
            speedup: 2.0,
            history_speedup: 4.0,
            exact_us_best: exact_us,
            lfps_us_best: exact_us / 2.0,
            history_us_best: exact_us / 4.0,
            exact_scan_us: exact_us,
            key_read_us: exact_us,
            sketch_scan_us: 10.0,
            memory_bandwidth_gb_per_s: 20.0,
            exact_bandwidth_share: 0.5,
            exact_scan_bandwidth_share: 0.5,
            key_read_bandwidth_share: 0.5,
            sketch_scan_bandwidth_share: 0.5,
            lfps_bandwidth_share: 0.5,
            history_bandwidth_share: 0.5,
            lfps_bytes: 1e5,
            history_bytes: 1e5,
            exact_bytes: 1e6,
            lfps_candidates: 3000.0,
            history_candidates: 3000.0,
            repair_rate: 0.0,
            lfps_recall: 0.9,
            lfps_mass: 0.99,
            history_recall: 0.8,
            history_mass: 0.9,
            index_state_share: 0.02,
            seed_ms: 10.0,
            query_cosine_mean: 0.8,
            topk_overlap_mean: 0.6,
        }
    }

    #[test]
    fn a_table_has_a_line_for_each_context() {
        let rows = [row(4096, 100.0), row(8192, 200.0)];
        let table = index_table(&rows);
        assert_eq!(table.lines().count(), 4, "{table}");
        assert!(table.contains("8192       200   0.50   0.50      100   2.0x"), "{table}");
        let likeness = likeness("a trace", &rows);
        assert!(likeness.contains("a trace") && likeness.contains("60 % at 8192"), "{likeness}");
        assert!(super::likeness("a trace", &[]).is_empty());
    }
}
