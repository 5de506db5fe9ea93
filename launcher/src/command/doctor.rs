//! `hindsight doctor`: what of this machine slows Hindsight down or stops it.

use clap::Args;

use super::topology::RootArguments;
use crate::doctor::examine;
use crate::error::{Error, Exit};

/// Find what slows Hindsight down or stops it on this machine, and say how to mend it
///
/// Ends with exit code 0 if there is nothing to mend, 10 if Hindsight could do better, 11 if runs will fail.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// Which machine.
    #[command(flatten)]
    machine: RootArguments,

    /// Print one JSON object instead of text
    #[arg(long)]
    pub(super) json: bool,
}

/// Runs the command; returns the exit code that tells what was found.
///
/// # Errors
/// None that a user could cause.
#[expect(clippy::print_stdout, reason = "this is the command's output")]
pub fn run(arguments: &DoctorArguments) -> Result<Exit, Error> {
    let findings = examine(&arguments.machine.root());
    if arguments.json {
        println!("{}", serde_json::to_string(&findings).map_err(Error::internal)?);
    } else {
        print!("{findings}");
    }
    Ok(findings.exit())
}
