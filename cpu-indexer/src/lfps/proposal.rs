//! What one group of queries proposes to look at exactly.

use crate::kernels::{GroupQuery, Scores};
use crate::selection::Effort;
use crate::sketch::Ranking;

/// The candidates that codes give for a group of queries, and what their codes say of each.
///
/// The queries may be those that are expected; the true ones then choose among the candidates.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proposal {
    /// The queries that propose, as they are multiplied with keys: [group, head_dim].
    queries: Vec<f32>,
    /// Tokens of the step that these queries are expected at, until true ones have chosen among the candidates; else 0.
    pub(crate) expected_at: usize,
    /// Ascending.
    pub(super) candidates: Vec<u32>,
    /// Where the strongest tokens of the last step stand among the candidates.
    pub(super) strongest: Vec<usize>,
    /// The rank of each candidate's code.
    pub(super) ranks: Vec<u8>,
    /// How far candidates reach below the last one wanted, in expected errors of an estimate.
    pub(super) confidence: f32,
    /// Logarithm of the share of attention at rank 0.
    pub(super) floor: f32,
    /// Difference of logarithms from one rank to the next.
    pub(super) unit: f32,
    /// The best keys by their codes, if there are fewer candidates than keys to be chosen.
    pub(super) likeliest: Vec<u32>,
    /// The share of attention of each candidate, summed over the group, once they are `weighed`.
    pub(super) weights: Vec<f32>,
    /// Whether the candidates have been weighed, and nobody has learned from it yet.
    pub(super) weighed: bool,
    /// Whether the queries point where codes say little.
    pub(super) surprising: bool,
    /// Whether expected queries proposed in vain.
    pub(super) misled: bool,
    /// Scores of sink and window, then of the candidates.
    pub(super) scores: Scores,
    /// What proposing took.
    pub(super) effort: Effort,
}

impl Proposal {
    /// Room for what a group of queries like `query` proposes: `most` candidates for `top_k` keys, besides `always` that are
    /// attended to anyway.
    pub(super) fn with_capacity(
        query: &GroupQuery,
        most: usize,
        always: usize,
        top_k: usize,
    ) -> Self {
        Self {
            scores: Scores::with_capacity(query.group(), always + most),
            queries: Vec::with_capacity(query.values().len()),
            candidates: Vec::with_capacity(most),
            strongest: Vec::with_capacity(super::ANCHORS),
            ranks: Vec::with_capacity(most),
            weights: Vec::with_capacity(most),
            likeliest: Vec::with_capacity(top_k.min(most)),
            ..Self::default()
        }
    }

    /// Begins anew for `query`.
    pub(super) fn begin(&mut self, query: &GroupQuery, floor: f32, confidence: f32) {
        self.queries.clear();
        self.queries.extend_from_slice(query.values());
        (self.floor, self.confidence) = (floor, confidence);
        (self.surprising, self.misled, self.weighed) = (false, false, false);
        self.effort = Effort::default();
    }

    /// Takes note of what the codes of the candidates say.
    pub(super) fn note_ranks(&mut self, ranking: &Ranking) {
        self.unit = ranking.unit;
        self.ranks.clear();
        self.ranks.extend(self.candidates.iter().map(|&token| ranking.ranks[token as usize]));
    }

    /// Finds the `strongest` tokens of the last step among the candidates.
    pub(super) fn find(&mut self, strongest: &[u32]) {
        let Self { candidates, strongest: found, .. } = self;
        found.clear();
        found.extend(strongest.iter().filter_map(|token| candidates.binary_search(token).ok()));
    }

    /// Makes `tokens`, found without their codes, the candidates.
    pub(super) fn replace(&mut self, tokens: &[u32]) {
        self.candidates.clear();
        self.candidates.extend_from_slice(tokens);
        self.ranks.clear();
    }

    /// The logarithm of the share of attention that a rank stands for.
    pub(super) fn log_weight_of(&self, rank: u8) -> f32 {
        self.floor + f32::from(rank) * self.unit
    }

    /// Mean cosine of the queries that proposed with those of `query`.
    pub(super) fn likeness(&self, query: &GroupQuery) -> f32 {
        query.likeness(&self.queries)
    }
}
