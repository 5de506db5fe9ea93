//! What a measurement found.

use serde::Serialize;

/// Figures at one context.
///
/// Times are medians over steps, KV heads and repeats, in microseconds for one KV head, and count everything that a step
/// does for it: the new key, candidates, scores, selection, and what is learnt from it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IndexBenchRow {
    /// Tokens of context at the last step.
    pub context: usize,
    /// KV heads.
    pub kv_heads: u32,
    /// Query heads for each KV head.
    pub group: u32,
    /// Elements of a key.
    pub head_dim: u32,
    /// Tokens selected besides sink and window.
    pub top_k: usize,
    /// A step of an exact scan.
    pub exact_us: f64,
    /// A step of LFPS with the parameters given.
    pub lfps_us: f64,
    /// A step of LFPS that never scans codes.
    pub history_us: f64,
    /// `exact_us / lfps_us`.
    pub speedup: f64,
    /// `exact_us / history_us`.
    pub history_speedup: f64,
    /// As `exact_us`, of the fastest repeat of each step: what the machine's other work disturbs least.
    pub exact_us_best: f64,
    /// As `lfps_us`, of the fastest repeat of each step.
    pub lfps_us_best: f64,
    /// As `history_us`, of the fastest repeat of each step.
    pub history_us_best: f64,
    /// Scoring every key, the exact step's larger part, alone.
    pub exact_scan_us: f64,
    /// Reading every key where it lies in the arena, and doing nothing with it.
    pub key_read_us: f64,
    /// Ranking every key by its code, for the whole group.
    pub sketch_scan_us: f64,
    /// The core's bandwidth that the shares below are of.
    pub memory_bandwidth_gb_per_s: f64,
    /// Bytes of keys per time of an exact step, over the core's bandwidth.
    pub exact_bandwidth_share: f64,
    /// The same of scoring every key.
    pub exact_scan_bandwidth_share: f64,
    /// The same of reading every key.
    pub key_read_bandwidth_share: f64,
    /// Bytes of codes and tables per time of ranking keys by them, over the core's bandwidth.
    pub sketch_scan_bandwidth_share: f64,
    /// Bytes that an LFPS step reads per its time, over the core's bandwidth.
    pub lfps_bandwidth_share: f64,
    /// The same without codes.
    pub history_bandwidth_share: f64,
    /// Mean bytes that an LFPS step reads for one KV head.
    pub lfps_bytes: f64,
    /// Mean bytes that it reads without codes.
    pub history_bytes: f64,
    /// Bytes of all keys of one KV head.
    pub exact_bytes: f64,
    /// Mean number of keys that an LFPS step scores.
    pub lfps_candidates: f64,
    /// Mean number of keys that it scores without codes.
    pub history_candidates: f64,
    /// Share of LFPS steps at which more was read than usual, because the query had turned.
    pub repair_rate: f64,
    /// Share of the exact top-k that LFPS selects.
    pub lfps_recall: f64,
    /// Softmax mass of its selection, sink and window over that of the exact top-k, sink and window.
    pub lfps_mass: f64,
    /// The recall without codes.
    pub history_recall: f64,
    /// The mass without codes.
    pub history_mass: f64,
    /// Bytes that LFPS holds over those of keys and values.
    pub index_state_share: f64,
    /// Milliseconds that LFPS takes to learn from the prompt, for one KV head.
    pub seed_ms: f64,
    /// Mean cosine of successive queries.
    pub query_cosine_mean: f64,
    /// Mean share that successive exact selections have in common.
    pub topk_overlap_mean: f64,
}

impl IndexBenchRow {
    /// States all shares of bandwidth against another one: a core's best is only known once everything has been measured.
    pub fn relate_to(&mut self, gb_per_s: f64) {
        let factor = self.memory_bandwidth_gb_per_s / gb_per_s;
        self.memory_bandwidth_gb_per_s = gb_per_s;
        for share in [
            &mut self.exact_bandwidth_share,
            &mut self.exact_scan_bandwidth_share,
            &mut self.key_read_bandwidth_share,
            &mut self.sketch_scan_bandwidth_share,
            &mut self.lfps_bandwidth_share,
            &mut self.history_bandwidth_share,
        ] {
            *share *= factor;
        }
    }
}
