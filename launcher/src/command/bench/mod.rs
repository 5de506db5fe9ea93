//! `hindsight bench`: how fast the parts are on this machine.

mod export;
mod index;

use clap::{Args, Subcommand};

use crate::error::Error;

/// Measure how fast the parts are on this machine
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// What is measured.
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    Index(Box<index::IndexBenchArguments>),
}

impl BenchArguments {
    /// Whether results and errors are printed as JSON.
    pub(super) const fn json(&self) -> bool {
        match &self.part {
            Part::Index(arguments) => arguments.json,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// What failed, and with which exit code.
pub fn run(arguments: &BenchArguments) -> Result<(), Error> {
    match &arguments.part {
        Part::Index(arguments) => index::run(arguments),
    }
}
