//! What all evaluations can be told.

use std::path::{Path, PathBuf};

use clap::Args;
use hindsight_protocol::records::AttentionPolicy;

use super::super::index_arguments::IndexArguments;
use super::super::run::arguments::{Attention, MachineArguments};

/// What all evaluations can be told.
#[derive(Debug, Args)]
pub(super) struct EvalArguments {
    /// Model: a name that `hindsight pull` knows, a GGUF file, or hf:owner/repo/file.gguf
    #[arg(short, long, env = "HINDSIGHT_MODEL", default_value = "smollm2-135m")]
    pub(super) model: String,

    /// Attentions to compare; every other one is compared with full, or else with exact
    #[arg(short, long, value_enum, value_delimiter = ',', default_value = "full,exact,lfps")]
    pub(super) attention: Vec<Attention>,

    /// Allow prompts longer than the model was trained on
    #[arg(long)]
    pub(super) allow_beyond_trained: bool,

    /// Folder that results are kept in, and taken from when the same command is run again [default:
    /// hindsight-eval/COMMAND]
    #[arg(short, long, value_name = "DIR")]
    pub(super) output: Option<PathBuf>,

    /// Print JSON instead of tables
    #[arg(long)]
    pub(super) json: bool,

    /// Show no progress
    #[arg(short, long)]
    pub(super) quiet: bool,

    /// The index's parameters.
    #[command(flatten)]
    pub(super) index: IndexArguments,

    /// Where it runs.
    #[command(flatten)]
    pub(super) machine: MachineArguments,
}

impl EvalArguments {
    /// The folder of results of the given command.
    pub(super) fn folder(&self, command: &str) -> PathBuf {
        self.output.clone().unwrap_or_else(|| Path::new("hindsight-eval").join(command))
    }

    /// The attentions, each once, the one that others are compared with first.
    pub(super) fn attentions(&self) -> Vec<AttentionPolicy> {
        let all = [AttentionPolicy::Full, AttentionPolicy::Exact, AttentionPolicy::Lfps];
        let asked = |policy: &AttentionPolicy| {
            self.attention.iter().any(|&attention| AttentionPolicy::from(attention) == *policy)
        };
        all.into_iter().filter(asked).collect()
    }
}
