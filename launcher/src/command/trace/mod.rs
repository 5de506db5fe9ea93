//! `hindsight trace`: attention of a real model, in a file.

mod plan;
mod record;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};

use crate::error::Error;

/// Record attention of a real model, to replay the index over it
#[derive(Debug, Args)]
pub struct TraceArguments {
    #[command(subcommand)]
    command: TraceCommand,
}

#[derive(Debug, Subcommand)]
enum TraceCommand {
    Record(RecordArguments),
}

/// Record queries, keys and values of decode steps over a text
///
/// The model reads the first tokens of the text as its prompt, and then decodes in full attention: each step is given the
/// text's next token, or with --free-running the one that the model itself finds likeliest. The file, in the safetensors
/// format, also holds the queries of the last 64 prompt tokens; `hindsight replay` reads it.
#[derive(Debug, Args)]
pub struct RecordArguments {
    /// Model: a name that `hindsight pull` knows, a GGUF file, or hf:owner/repo/file.gguf
    #[arg(short, long, env = "HINDSIGHT_MODEL", default_value = "smollm2-135m")]
    model: String,

    /// File with the text
    #[arg(long, value_name = "FILE")]
    text: PathBuf,

    /// Tokens of the text that make the prompt
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: u32,

    /// Decode steps to record
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,

    /// Layers to record, as 2,7,18 (counted from 0), or all
    #[arg(long, default_value_t = Layers::All)]
    layers: Layers,

    /// Decode what the model says, until it ends, instead of the text
    #[arg(long)]
    free_running: bool,

    /// Allow more tokens than the model was trained on
    #[arg(long)]
    allow_beyond_trained: bool,

    /// Cores to use [default: all]
    #[arg(long, env = "HINDSIGHT_THREADS")]
    threads: Option<usize>,

    /// File to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Replace the file if it exists
    #[arg(long)]
    force: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

impl RecordArguments {
    /// Records some layers of a model that is given a text by the name of `text`, in place of any earlier recording.
    pub(super) fn new(
        model: &str,
        text: &str,
        (prompt_tokens, steps): (u32, u32),
        layers: &[usize],
        output: PathBuf,
    ) -> Self {
        Self {
            model: model.to_owned(),
            text: text.into(),
            prompt_tokens,
            steps,
            layers: Layers::These(layers.to_vec()),
            free_running: false,
            allow_beyond_trained: false,
            threads: None,
            output,
            force: true,
            json: false,
            quiet: false,
        }
    }
}

/// Which layers are recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Layers {
    All,
    /// Ascending, each once.
    These(Vec<usize>),
}

impl FromStr for Layers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        let number = |part: &str| {
            part.trim().parse().map_err(|_| format!("{part:?} is no number of a layer"))
        };
        let mut layers = text.split(',').map(number).collect::<Result<Vec<usize>, _>>()?;
        layers.sort_unstable();
        layers.dedup();
        Ok(Self::These(layers))
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::These(layers) => {
                let layers: Vec<String> = layers.iter().map(ToString::to_string).collect();
                f.write_str(&layers.join(","))
            }
        }
    }
}

impl TraceArguments {
    /// Whether results and errors are printed as JSON.
    #[must_use]
    pub const fn json(&self) -> bool {
        let TraceCommand::Record(arguments) = &self.command;
        arguments.json
    }
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the input, what does not fit, or what failed.
pub fn run(arguments: &TraceArguments) -> Result<(), Error> {
    let TraceCommand::Record(arguments) = &arguments.command;
    record::run(arguments)
}

/// Records a text that needs no file.
///
/// # Errors
/// What does not fit, or what failed.
pub(super) fn record_text(arguments: &RecordArguments, text: String) -> Result<(), Error> {
    super::runtime::block_on(async {
        let mut interrupts = super::interrupt::Interrupts::listen()?;
        record::record_text(arguments, || Ok(text), &mut interrupts).await
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_put_in_order_and_named_once() {
        let layers: Layers = "18,2, 7,2".parse().unwrap();
        assert_eq!(layers, Layers::These(vec![2, 7, 18]));
        assert_eq!(layers.to_string(), "2,7,18");
        assert_eq!("all".parse(), Ok(Layers::All));
        for wrong in ["", "2,", "-1", "two"] {
            assert!(wrong.parse::<Layers>().is_err(), "{wrong}");
        }
    }
}
