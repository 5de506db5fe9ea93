//! `hindsight bench`: how fast the parts are on this machine.

mod common;
mod decode;
mod default_trace;
pub mod echo;
mod export;
mod index;
mod ipc;
mod link;
mod prefill;
mod text;

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
    Decode(Box<decode::DecodeBenchArguments>),
    Prefill(Box<prefill::PrefillBenchArguments>),
    Index(Box<index::IndexBenchArguments>),
    Ipc(ipc::IpcBenchArguments),
    Link(link::LinkBenchArguments),
}

impl BenchArguments {
    /// Whether results and errors are printed as JSON.
    pub(super) const fn json(&self) -> bool {
        match &self.part {
            Part::Decode(arguments) => arguments.common.json,
            Part::Prefill(arguments) => arguments.common.json,
            Part::Index(arguments) => arguments.json,
            Part::Ipc(arguments) => arguments.json,
            Part::Link(arguments) => arguments.json,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// What failed, and with which exit code.
pub fn run(arguments: &BenchArguments) -> Result<(), Error> {
    match &arguments.part {
        Part::Decode(arguments) => decode::run(arguments),
        Part::Prefill(arguments) => prefill::run(arguments),
        Part::Index(arguments) => index::run(arguments),
        Part::Ipc(arguments) => ipc::run(arguments),
        Part::Link(arguments) => link::run(arguments),
    }
}
