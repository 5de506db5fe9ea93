//! What can be set about an index, with measured defaults.

use serde::{Deserialize, Serialize};

/// How the keys that a query attends to are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The top-k of a scan over every key.
    Exact,
    /// The top-k among candidates that past steps and a sketch of the keys propose.
    Lfps,
}

impl std::fmt::Display for Policy {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Exact => "exact",
            Self::Lfps => "lfps",
        })
    }
}

/// When the sketch of the keys is scanned for candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SketchUse {
    /// Never: candidates come from history alone, and no codes are kept.
    Never,
    /// When a query has turned away from the one before it, see [`IndexParameters::drift_threshold`].
    OnDrift,
    /// At every step.
    Always,
}

/// When the keys of a step are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Timing {
    /// By the step's own queries, while they wait.
    Now,
    /// By the step's own queries, among candidates that the queries proposed which the layer was expected to have: these are
    /// known before its own.
    Rehearsed,
    /// By the queries of the step before, ahead of time: nobody waits, and what a query turns to for the first time is missed
    /// unless it lies in a block that is attended anyway.
    Ahead,
}

/// How many times as many tokens the first layers choose as the others, in contexts that they do not attend to whole: their
/// attention is spread more widely.
pub const WIDENING: usize = 4;

/// What can be set about an index.
///
/// Tokens between the sink and the window are called the middle; only they are chosen among.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IndexParameters {
    /// Tokens of the middle to choose for each KV head.
    pub top_k: usize,
    /// First tokens of the text, always attended.
    pub sink: usize,
    /// Last tokens of the text, always attended.
    pub window: usize,
    /// First layers that attend to every token of contexts of up to `dense_layer_tokens`, and in longer ones choose [`WIDENING`]
    /// times as many as the others.
    pub dense_layers: usize,
    /// Tokens up to which the first layers attend to every one.
    pub dense_layer_tokens: usize,
    /// Contexts of up to so many tokens are attended to whole, and nobody is asked.
    pub dense_tokens: usize,
    /// By which queries keys are chosen.
    pub timing: Timing,
    /// Tokens of a block that are attended to together, if one of them is chosen, by a device that need not attend to whole
    /// blocks.
    pub grain: usize,
    /// When codes are scanned.
    pub sketch: SketchUse,
    /// Bytes of a key's code; 0 stands for a measured default that depends on the size of a key.
    pub code_bytes: usize,
    /// Candidates are taken from the sketch until estimates lie as many expected errors of an estimate below that of the
    /// `top_k`-th.
    pub confidence: f32,
    /// Candidates taken from the sketch at most, as a multiple of `top_k`.
    pub proposals: f32,
    /// Standard deviations above its mean at which the expected error of estimates makes a step scan all keys.
    pub surprise: f32,
    /// Candidates whose estimated share of the attention, in units of the natural logarithm, is below this are not
    /// looked at exactly.
    pub weight_floor: f32,
    /// Share of a key's last known deviation from its code that is expected to hold at the next step.
    pub persistence: f32,
    /// Mean cosine of successive queries of a group below which they count as drifted.
    pub drift_threshold: f32,
    /// Positions remembered for having been attended again and again, as a multiple of `top_k` (history alone).
    pub vertical: f32,
    /// Distances remembered for having been attended again and again, as a multiple of `top_k` (history alone).
    pub slash: f32,
    /// Factor by which remembered scores shrink at each step (history alone).
    pub decay: f32,
    /// Tokens by which a candidate of the last selection is widened on both sides (history alone).
    pub expansion: usize,
    /// Last prompt queries whose exact selections seed the history.
    pub seed_queries: usize,
}

impl Default for IndexParameters {
    fn default() -> Self {
        Self {
            top_k: 256,
            sink: 4,
            window: 64,
            dense_layers: 2,
            dense_layer_tokens: 12_288,
            dense_tokens: 2048,
            timing: Timing::Rehearsed,
            grain: 64,
            sketch: SketchUse::Always,
            code_bytes: 0,
            confidence: 1.25,
            proposals: 4.0,
            surprise: 4.0,
            weight_floor: -12.0,
            persistence: 0.5,
            drift_threshold: 0.8,
            vertical: 1.0,
            slash: 0.0,
            decay: 0.95,
            expansion: 1,
            seed_queries: 16,
        }
    }
}

/// A parameter that an index cannot work with.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{name} is {value}, but must be {requirement}")]
pub struct ParameterError {
    /// Name of the parameter.
    pub name: &'static str,
    /// What it was set to.
    pub value: String,
    /// What it may be.
    pub requirement: &'static str,
}

impl IndexParameters {
    /// Checks every parameter.
    ///
    /// # Errors
    /// Names the first parameter out of range.
    pub fn validate(&self) -> Result<(), ParameterError> {
        fn check(
            name: &'static str,
            value: impl ToString,
            holds: bool,
            requirement: &'static str,
        ) -> Result<(), ParameterError> {
            if holds {
                Ok(())
            } else {
                Err(ParameterError { name, value: value.to_string(), requirement })
            }
        }
        const TOKENS: usize = 1 << 24;
        check("top-k", self.top_k, (1..=TOKENS).contains(&self.top_k), "from 1 to 16777216")?;
        check("sink", self.sink, self.sink <= TOKENS, "at most 16777216")?;
        check("window", self.window, (1..=TOKENS).contains(&self.window), "from 1 to 16777216")?;
        let dense = self.dense_tokens;
        check("dense tokens", dense, dense <= TOKENS, "at most 16777216")?;
        let dense = self.dense_layer_tokens;
        check("dense layer tokens", dense, dense <= TOKENS, "at most 16777216")?;
        let grain = self.grain;
        let of_block = grain.is_power_of_two() && grain <= 64;
        check("grain", grain, of_block, "a power of two, at most 64")?;
        check("code bytes", self.code_bytes, self.code_bytes <= 64, "at most 64")?;
        let proposals = self.proposals;
        check("proposals", proposals, (1.0..=64.0).contains(&proposals), "from 1 to 64")?;
        let confidence = self.confidence;
        check("confidence", confidence, (0.0..=16.0).contains(&confidence), "from 0 to 16")?;
        let surprise = self.surprise;
        check("surprise", surprise, surprise >= 0.0, "at least 0")?;
        let floor = self.weight_floor;
        check("weight floor", floor, (-40.0..=0.0).contains(&floor), "from -40 to 0")?;
        let persistence = self.persistence;
        check("persistence", persistence, (0.0..=1.0).contains(&persistence), "from 0 to 1")?;
        let drift = self.drift_threshold;
        check("drift threshold", drift, (-1.0..=1.0).contains(&drift), "from -1 to 1")?;
        check("vertical", self.vertical, (0.0..=64.0).contains(&self.vertical), "from 0 to 64")?;
        check("slash", self.slash, (0.0..=64.0).contains(&self.slash), "from 0 to 64")?;
        check("decay", self.decay, (0.0..1.0).contains(&self.decay), "at least 0 and below 1")?;
        check("expansion", self.expansion, self.expansion <= 64, "at most 64")?;
        let seeds = self.seed_queries;
        check("seed queries", seeds, (1..=64).contains(&seeds), "from 1 to 64")
    }

    /// Whether `layer` attends to every token of a context of `tokens` tokens.
    #[must_use]
    pub const fn is_dense(&self, layer: usize, tokens: usize) -> bool {
        layer < self.dense_layers && tokens <= self.dense_layer_tokens
    }

    /// Tokens of the middle to choose for each KV head of `layer`, where it does not attend to every one.
    #[must_use]
    pub const fn top_k_of(&self, layer: usize) -> usize {
        if layer < self.dense_layers { self.top_k.saturating_mul(WIDENING) } else { self.top_k }
    }

    /// The most tokens that the KV heads of any layer choose in contexts of at most `tokens` tokens.
    #[must_use]
    pub const fn widest(&self, tokens: usize) -> usize {
        if self.is_dense(0, tokens) { self.top_k } else { self.top_k_of(0) }
    }

    /// The most blocks of `block_tokens` tokens that a KV head which chooses `top_k` tokens attends to at one step in a context of
    /// at most `tokens` tokens: one for each chosen key, and those of sink and window.
    #[must_use]
    pub const fn most_blocks(&self, top_k: usize, block_tokens: usize, tokens: usize) -> usize {
        // A window may begin and end within a block.
        let always = self.sink.div_ceil(block_tokens) + self.window.div_ceil(block_tokens) + 1;
        let chosen_too = top_k.saturating_add(always);
        let all = tokens.div_ceil(block_tokens);
        if all < chosen_too { all } else { chosen_too }
    }

    /// Bytes of a code of a key with `head_dim` elements.
    pub(crate) fn code_bytes_of(&self, head_dim: usize) -> usize {
        match self.code_bytes {
            // What has proved enough; a short key's code is allowed more of its length.
            0 => (head_dim / 16).max(10).min(head_dim * 5 / 32),
            bytes => bytes,
        }
    }
}

/// `multiple` times `top_k`, rounded up.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
pub(crate) fn times(multiple: f32, top_k: usize) -> usize {
    (f64::from(multiple) * top_k as f64).ceil() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(IndexParameters::default().validate(), Ok(()));
    }

    #[test]
    fn codes_stay_under_a_twentieth_of_keys_and_values() {
        let parameters = IndexParameters::default();
        for head_dim in (16..=512).step_by(16) {
            let bytes = parameters.code_bytes_of(head_dim);
            assert!(bytes >= 1 && bytes * 20 <= 2 * 2 * head_dim, "{bytes} for {head_dim}");
        }
    }

    #[test]
    fn nothing_selected_is_refused_by_name() {
        let parameters = IndexParameters { top_k: 0, ..Default::default() };
        let message = parameters.validate().unwrap_err().to_string();
        assert_eq!(message, "top-k is 0, but must be from 1 to 16777216");
    }

    #[test]
    fn a_number_that_is_none_is_refused() {
        let parameters = IndexParameters { decay: f32::NAN, ..Default::default() };
        assert_eq!(parameters.validate().unwrap_err().name, "decay");
    }
}
