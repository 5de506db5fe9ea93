//! `hindsight topology`: what the machine is made of, and who would run where.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::error::Error;
use crate::report::topology::Drawing;
use crate::topology::{Choice, Request, Root, Topology};

/// Draw nodes, cores, memory and GPUs, and mark who would run where
///
/// Cores are shown with the CPUs (hardware threads) that share them, grouped by the largest cache that they share.
#[derive(Debug, Args)]
pub struct TopologyArguments {
    /// Which machine.
    #[command(flatten)]
    pub(super) machine: RootArguments,

    /// Print one JSON object instead of the drawing
    #[arg(long)]
    pub(super) json: bool,
}

/// Which machine is looked at.
#[derive(Debug, Args)]
pub(super) struct RootArguments {
    /// Directory with copies of another machine's `sys` and `proc` [default: this machine]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

impl RootArguments {
    pub(super) fn root(&self) -> Root {
        self.root.clone().map_or_else(Root::machine, Root::copy)
    }
}

#[derive(Serialize)]
struct Report<'t> {
    #[serde(flatten)]
    topology: &'t Topology,
    choice: &'t Choice,
}

/// Runs the command.
///
/// # Errors
/// No core is known to be usable, as where the directory holds no machine.
#[expect(clippy::print_stdout, reason = "this is the command's output")]
pub fn run(arguments: &TopologyArguments) -> Result<(), Error> {
    let topology = Topology::read(&arguments.machine.root());
    let choice = topology.choose(&Request::default())?;
    if arguments.json {
        let report = Report { topology: &topology, choice: &choice };
        println!("{}", serde_json::to_string(&report).map_err(Error::internal)?);
    } else {
        print!("{}", Drawing { topology: &topology, choice: Some(&choice) });
    }
    Ok(())
}
