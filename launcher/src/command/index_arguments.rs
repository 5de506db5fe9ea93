//! The index's parameters as flags.

use clap::{Args, ValueEnum};
use hindsight_cpu_indexer::parameters::{IndexParameters, SketchUse};

use crate::error::{Error, Exit};

/// What a step attends to, and how LFPS predicts it. The defaults are measured.
#[derive(Debug, Args)]
#[command(next_help_heading = "Attention")]
pub struct IndexArguments {
    /// Keys that each KV head selects at a step, besides sink and window
    #[arg(short = 'k', long, default_value_t = IndexParameters::default().top_k)]
    pub top_k: usize,

    /// First tokens, always attended to
    #[arg(long, default_value_t = IndexParameters::default().sink)]
    pub sink: usize,

    /// Last tokens, always attended to
    #[arg(long, default_value_t = IndexParameters::default().window)]
    pub window: usize,

    /// First layers that attend to every key, kept on the device
    #[arg(long, default_value_t = IndexParameters::default().dense_layers)]
    pub dense_layers: usize,

    /// Contexts of up to so many tokens are attended to whole by the dense layers; of longer ones they select four times --top-k
    /// (on the CPU; on a GPU they attend to every key)
    #[arg(long, default_value_t = IndexParameters::default().dense_layer_tokens)]
    pub dense_layer_tokens: usize,

    /// Contexts of up to so many tokens are attended to whole, without asking the index (on the CPU)
    #[arg(long, default_value_t = IndexParameters::default().dense_tokens)]
    pub dense_tokens: usize,

    /// By which queries keys are chosen
    #[arg(long, value_enum, default_value_t = Timing::Rehearsed)]
    pub timing: Timing,

    /// Tokens of a block that are attended to together if one of them is selected: a power of two; 64 stands for whole
    /// blocks (on the CPU; a GPU always attends to these)
    #[arg(long, default_value_t = IndexParameters::default().grain)]
    pub grain: usize,

    /// How LFPS predicts.
    #[command(flatten)]
    pub lfps: LfpsArguments,
}

/// How LFPS predicts.
#[derive(Debug, Args)]
#[command(next_help_heading = "LFPS index (see --help)")]
pub struct LfpsArguments {
    /// When the sketch of all keys is scanned for candidates
    #[arg(long, value_enum, default_value_t = Sketch::Always, hide_short_help = true)]
    pub sketch: Sketch,

    /// Bytes of a key's code in the sketch; 0 chooses by the size of a key
    #[arg(long, default_value_t = IndexParameters::default().code_bytes, hide_short_help = true)]
    pub code_bytes: usize,

    /// How far below the top-k candidates are taken from the sketch, in expected errors of an estimate
    #[arg(long, default_value_t = IndexParameters::default().confidence, hide_short_help = true)]
    pub confidence: f32,

    /// Candidates taken from the sketch at most, as a multiple of --top-k
    #[arg(long, default_value_t = IndexParameters::default().proposals, hide_short_help = true)]
    pub proposals: f32,

    /// Standard deviations above the mean at which a step's expected error makes it scan every key
    #[arg(long, default_value_t = IndexParameters::default().surprise, hide_short_help = true)]
    pub surprise: f32,

    /// Logarithm of the share of attention below which a key is never looked at
    #[arg(
        long,
        default_value_t = IndexParameters::default().weight_floor,
        allow_negative_numbers = true,
        hide_short_help = true
    )]
    pub weight_floor: f32,

    /// Share of a key's last deviation from its code that is expected to hold at the next step
    #[arg(long, default_value_t = IndexParameters::default().persistence, hide_short_help = true)]
    pub persistence: f32,

    /// Cosine of successive queries below which they count as drifted (--sketch on-drift)
    #[arg(
        long,
        default_value_t = IndexParameters::default().drift_threshold,
        allow_negative_numbers = true,
        hide_short_help = true
    )]
    pub drift_threshold: f32,

    /// Positions remembered for having been attended again and again, as a multiple of --top-k (history)
    #[arg(long, default_value_t = IndexParameters::default().vertical, hide_short_help = true)]
    pub vertical: f32,

    /// Distances remembered for having been attended again and again, as a multiple of --top-k (history)
    #[arg(long, default_value_t = IndexParameters::default().slash, hide_short_help = true)]
    pub slash: f32,

    /// Factor by which remembered scores shrink at each step (history)
    #[arg(long, default_value_t = IndexParameters::default().decay, hide_short_help = true)]
    pub decay: f32,

    /// Tokens by which a candidate of the last selection is widened on both sides (history)
    #[arg(long, default_value_t = IndexParameters::default().expansion, hide_short_help = true)]
    pub expansion: usize,

    /// How many of the last prompt queries seed the history
    #[arg(long, default_value_t = IndexParameters::default().seed_queries, hide_short_help = true)]
    pub seed_queries: usize,
}

/// By which queries keys are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Timing {
    /// The step's own, which wait for it
    Now,
    /// The step's own, among those that the queries propose which a layer is expected to have (on a GPU: as now)
    Rehearsed,
    /// Those of the step before: nobody waits, but some of what matters anew is missed
    Ahead,
}

impl From<Timing> for hindsight_cpu_indexer::parameters::Timing {
    fn from(timing: Timing) -> Self {
        match timing {
            Timing::Now => Self::Now,
            Timing::Rehearsed => Self::Rehearsed,
            Timing::Ahead => Self::Ahead,
        }
    }
}

/// When the sketch is scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sketch {
    /// Never: candidates come from history alone
    Never,
    /// When a query has turned away from the one before it
    OnDrift,
    /// At every step
    Always,
}

impl From<Sketch> for SketchUse {
    fn from(sketch: Sketch) -> Self {
        match sketch {
            Sketch::Never => Self::Never,
            Sketch::OnDrift => Self::OnDrift,
            Sketch::Always => Self::Always,
        }
    }
}

impl IndexArguments {
    /// The index's parameters, checked.
    ///
    /// # Errors
    /// A parameter is out of range.
    pub fn parameters(&self) -> Result<IndexParameters, Error> {
        let lfps = &self.lfps;
        let parameters = IndexParameters {
            top_k: self.top_k,
            sink: self.sink,
            window: self.window,
            dense_layers: self.dense_layers,
            dense_layer_tokens: self.dense_layer_tokens,
            dense_tokens: self.dense_tokens,
            timing: self.timing.into(),
            grain: self.grain,
            sketch: lfps.sketch.into(),
            code_bytes: lfps.code_bytes,
            confidence: lfps.confidence,
            proposals: lfps.proposals,
            surprise: lfps.surprise,
            weight_floor: lfps.weight_floor,
            persistence: lfps.persistence,
            drift_threshold: lfps.drift_threshold,
            vertical: lfps.vertical,
            slash: lfps.slash,
            decay: lfps.decay,
            expansion: lfps.expansion,
            seed_queries: lfps.seed_queries,
        };
        parameters
            .validate()
            .map_err(|error| Error::new(Exit::Usage, "index_parameters", error))?;
        Ok(parameters)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        index: IndexArguments,
    }

    #[test]
    fn without_flags_the_parameters_are_the_measured_defaults() {
        let command = Command::parse_from(["test"]);
        assert_eq!(command.index.parameters().unwrap(), IndexParameters::default());
    }

    #[test]
    fn flags_that_are_out_of_range_are_named() {
        let command = Command::parse_from(["test", "--decay", "2"]);
        assert!(command.index.parameters().unwrap_err().message.contains("decay"));
    }
}
