//! `hindsight profile`: a run whose every byte and microsecond is accounted for.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser};

use super::Cli;
use crate::error::{Error, Exit};

/// Run something and write down what each process did when, and which bytes travelled why
///
/// Writes `trace.json` for Perfetto or chrome://tracing (arrows lead from a query to its selections and to the attention over
/// them), `summary.json`, and `report.html` with plots. The same as `hindsight run --profile FOLDER`.
#[derive(Debug, Args)]
pub struct ProfileArguments {
    /// Folder for the profile; it must be empty or not there yet
    #[arg(short, long, value_name = "FOLDER", default_value = "hindsight-profile")]
    output: PathBuf,

    /// What to run, as in `hindsight profile -- run -f book.txt -p 'Who is it about?'`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs the command with a profile.
///
/// # Errors
/// It is no run, or whatever the run fails with.
pub fn run(arguments: &ProfileArguments) -> Result<Exit, Error> {
    let named = arguments.command.first().is_some_and(|command| command == "run");
    if !named {
        return Err(Error::new(Exit::Usage, "not_a_run", "only `run` can be profiled")
            .with_hint("as in: hindsight profile -- run -f book.txt -p 'Who is it about?'"));
    }
    let program = [OsString::from("hindsight")];
    let profile = [OsString::from("--profile"), arguments.output.clone().into()];
    // `run` comes first, its own flags in whatever order after it.
    let line = program.iter().chain(&arguments.command[..1]).chain(&profile);
    match Cli::try_parse_from(line.chain(&arguments.command[1..])) {
        Ok(cli) => cli.run(),
        Err(error) => error.exit(),
    }
}
