//! `hindsight eval`: whether answers stay right.

mod arguments;
mod evaluation;
mod generation;
mod jsonl;
mod perplexity;
mod ruler;
mod template;

use clap::{Args, Subcommand};

use self::arguments::EvalArguments;
use super::interrupt::Interrupts;
use super::runtime::block_on;
use crate::error::Error;

/// Measure whether answers stay right under exact top-k and LFPS attention, prompt by prompt against full attention
#[derive(Debug, Args)]
pub struct EvalCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Ruler(Box<ruler::RulerArguments>),
    Jsonl(Box<jsonl::JsonlArguments>),
    Perplexity(Box<perplexity::PerplexityArguments>),
    Generation(Box<generation::GenerationArguments>),
}

impl EvalCommand {
    /// Whether results and errors are printed as JSON.
    #[must_use]
    pub fn json(&self) -> bool {
        self.common().json
    }

    fn common(&self) -> &EvalArguments {
        match &self.what {
            What::Ruler(arguments) => &arguments.common,
            What::Jsonl(arguments) => &arguments.common,
            What::Perplexity(arguments) => &arguments.common,
            What::Generation(arguments) => &arguments.common,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the input, what does not fit, or which process failed. What has been answered is kept.
pub fn run(command: &EvalCommand) -> Result<(), Error> {
    block_on(async {
        let mut interrupts = Interrupts::listen()?;
        match &command.what {
            What::Ruler(arguments) => ruler::run(arguments, &mut interrupts).await,
            What::Jsonl(arguments) => jsonl::run(arguments, &mut interrupts).await,
            What::Perplexity(arguments) => perplexity::run(arguments, &mut interrupts).await,
            What::Generation(arguments) => generation::run(arguments, &mut interrupts).await,
        }
    })
}
