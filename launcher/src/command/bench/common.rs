//! What the measurements of decode and prefill share: a model, a text, and a running pair of processes.

use std::path::PathBuf;

use clap::Args;

use super::text::DepthText;
use crate::command::index_arguments::IndexArguments;
use crate::command::interrupt::Interrupts;
use crate::command::pull::fetch;
use crate::command::run::arguments::MachineArguments;
use crate::command::setup::{LocalModel, settings};
use crate::error::Error;
use crate::supervise::Settings;

/// Flags of both.
#[derive(Debug, Args)]
pub(super) struct BenchCommon {
    /// Model: a name that `hindsight pull` knows, a GGUF file, or hf:owner/repo/file.gguf
    #[arg(short, long, env = "HINDSIGHT_MODEL", default_value = "smollm2-135m")]
    pub(super) model: String,

    /// How often everything is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) repeats: u32,

    /// Text to read [default: the first chapters of Alice in Wonderland, over and over]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,

    /// The index's parameters.
    #[command(flatten)]
    index: IndexArguments,

    /// Where it runs.
    #[command(flatten)]
    machine: MachineArguments,

    /// Print one JSON array instead of a table
    #[arg(long)]
    pub(super) json: bool,
}

impl BenchCommon {
    /// The model and its text.
    ///
    /// # Errors
    /// One of them cannot be had.
    pub(super) async fn open(
        &self,
        interrupts: &mut Interrupts,
    ) -> Result<(LocalModel, DepthText), Error> {
        let path = fetch(&self.model, self.json, interrupts).await?;
        let model = LocalModel::open(path)?;
        let text = DepthText::read(self.text.as_deref(), &model.tokenizer)?;
        Ok((model, text))
    }

    /// What processes are started with that hold `tokens` tokens of `model`.
    ///
    /// # Errors
    /// Memory or cores do not suffice.
    pub(super) fn settings(&self, model: &LocalModel, tokens: usize) -> Result<Settings, Error> {
        settings(model, &self.machine, self.index.parameters()?, tokens)
    }
}
